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
	var bad, soon []string
	reason := "NotYetValid"
	add := func(used string, findings []certs.Finding) {
		for _, f := range findings {
			out = append(out, report.Certificate{Used: used, Subject: f.Subject, NotAfter: f.NotAfter, State: string(f.State)})
			switch f.State {
			case certs.Expired:
				reason = "Expired"
				bad = append(bad, fmt.Sprintf("%s: %s expired on %s; replace it", used, f.Subject, day(f.NotAfter)))
			case certs.NotYetValid:
				bad = append(bad, fmt.Sprintf("%s: %s is valid from %s on only; replace it, or set this node's clock right",
					used, f.Subject, day(f.NotBefore)))
			case certs.Expiring:
				soon = append(soon, fmt.Sprintf("%s: %s expires on %s", used, f.Subject, day(f.NotAfter)))
			case certs.Valid:
			}
		}
	}
	for _, name := range sortedKeys(r.current.Bundles) {
		add("ca "+name, r.current.Bundles[name].Findings(now))
	}
	for _, name := range sortedKeys(r.current.KeyPairs) {
		add("client certificate "+name, r.current.KeyPairs[name].Findings(now))
	}
	r.view.update(func(n *report.NodeReport) { n.Certificates = out })
	switch {
	case len(bad) > 0:
		r.view.set(report.CertificatesValid, report.False, reason, strings.Join(append(bad, soon...), "\n"))
	case len(soon) > 0:
		r.view.set(report.CertificatesValid, report.True, "Expiring", "renew soon: "+strings.Join(soon, "\n"))
	default:
		r.view.set(report.CertificatesValid, report.True, "Valid", fmt.Sprintf("%d certificates", len(out)))
	}
}

func day(t time.Time) string { return t.Format(time.DateOnly) }
