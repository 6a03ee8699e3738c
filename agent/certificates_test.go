package agent

import (
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/certs"
)

func TestCertificatesAreReported(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	on := func(at time.Time) string { return at.Format(time.DateOnly) }
	good := newCA(t, "good", now.Add(31*day))
	soon := newCA(t, "soon", now.Add(29*day))
	gone := newCA(t, "gone", now.Add(-day))
	early := newCA(t, "early", now.Add(60*day)) // valid from 1000 hours before, that is in 18 days
	client := keyPair(t, good.issue(t, "", now.Add(10*day)))

	type bundles map[string]certs.Bundle
	cases := map[string]struct {
		bundles bundles
		pair    *certs.KeyPair
		status  report.ConditionStatus
		reason  string
		message string
	}{
		"none":      {nil, nil, report.True, "Valid", "0 certificates"},
		"all valid": {bundles{"a": good.bundle}, nil, report.True, "Valid", "1 certificates"},
		"one ends soon": {bundles{"a": good.bundle, "b": soon.bundle}, nil, report.True, "Expiring",
			"renew soon: ca b: CN=soon expires on " + on(now.Add(29*day))},
		"a client certificate ends soon": {nil, &client, report.True, "Expiring",
			"renew soon: client certificate node: CN=leaf expires on " + on(now.Add(10*day))},
		"one has ended": {bundles{"a": gone.bundle, "b": soon.bundle}, nil, report.False, "Expired",
			"ca a: CN=gone expired on " + on(now.Add(-day)) + "; replace it\nca b: CN=soon expires on " + on(now.Add(29*day))},
		"one has not begun": {bundles{"a": early.bundle}, nil, report.False, "NotYetValid",
			"ca a: CN=early is valid from " + on(early.cert.NotBefore) + " on only; replace it, or set this node's clock right"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var log agenttest.Log
			r := newReconciler(Config{Log: log.Logger()}, newView(report.NodeReport{}, log.Logger()), nil, nil, nil, nil)
			r.current = &config.Snapshot{Bundles: c.bundles, KeyPairs: make(map[string]certs.KeyPair)}
			want := c.bundles["a"].Len() + c.bundles["b"].Len()
			if c.pair != nil {
				r.current.KeyPairs["node"] = *c.pair
				want++
			}
			r.reportCertificates()
			r.reportCertificates()
			got := r.view.Report()
			cond := got.Condition(report.CertificatesValid)
			if cond.Status != c.status || cond.Reason != c.reason {
				t.Errorf("got %s, %s; want %s, %s", cond.Status, cond.Reason, c.status, c.reason)
			}
			if diff := cmp.Diff(c.message, cond.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if len(got.Certificates) != want {
				t.Errorf("%d certificates in the report, want %d: %+v", len(got.Certificates), want, got.Certificates)
			}
			if lines := log.Lines("CertificatesValid"); len(lines) != 1 {
				t.Errorf("told %d times", len(lines))
			}
		})
	}
}
