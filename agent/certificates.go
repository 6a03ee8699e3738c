package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/certs"
)

// reportCertificates states how long the certificates of the config are valid.
func (r *reconciler) reportCertificates() {
	now := time.Now()
	var out []report.Certificate
	add := func(used string, findings []certs.Finding) {
		for _, f := range findings {
			out = append(out, report.Certificate{Used: used, Subject: f.Subject, NotAfter: f.NotAfter, State: string(f.State)})
		}
	}
	for _, name := range sortedKeys(r.current.Bundles) {
		add("ca "+name, r.current.Bundles[name].Findings(now))
	}
	for _, name := range sortedKeys(r.current.KeyPairs) {
		add("client certificate "+name, r.current.KeyPairs[name].Findings(now))
	}
	r.view.update(func(n *report.NodeReport) { n.Certificates = out })

	var bad, soon []string
	for _, c := range out {
		switch certs.State(c.State) {
		case certs.Expired, certs.NotYetValid:
			bad = append(bad, fmt.Sprintf("%s: %s: %s (valid until %s); replace it", c.Used, c.Subject, c.State,
				c.NotAfter.Format(time.DateOnly)))
		case certs.Expiring:
			soon = append(soon, fmt.Sprintf("%s: %s expires on %s", c.Used, c.Subject, c.NotAfter.Format(time.DateOnly)))
		case certs.Valid:
		}
	}
	switch {
	case len(bad) > 0:
		r.view.set(report.CertificatesValid, report.False, "Expired", strings.Join(append(bad, soon...), "\n"))
	case len(soon) > 0:
		r.view.set(report.CertificatesValid, report.True, "Expiring", "renew soon: "+strings.Join(soon, "\n"))
	default:
		r.view.set(report.CertificatesValid, report.True, "Valid", fmt.Sprintf("%d certificates", len(out)))
	}
}
