package certs_test

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/certs"
)

func TestCheck(t *testing.T) {
	begin, end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: begin, NotAfter: end}
	for name, tc := range map[string]struct {
		now  time.Time
		want certs.State
	}{
		"a second before it begins":            {begin.Add(-time.Second), certs.NotYetValid},
		"when it begins":                       {begin, certs.Valid},
		"thirty days before its end":           {end.Add(-certs.ExpiryWarning), certs.Valid},
		"a second less than thirty days to go": {end.Add(-certs.ExpiryWarning + time.Second), certs.Expiring},
		"at its last second":                   {end, certs.Expiring},
		"a second after":                       {end.Add(time.Second), certs.Expired},
	} {
		if got := certs.Check(cert, tc.now); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

func TestFindings(t *testing.T) {
	a := selfSigned(t, 1, "a")
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	bundle, err := certs.ParseBundle(a.certPEM())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(a.certPEM(), a.pkcs8())
	if err != nil {
		t.Fatal(err)
	}
	want := []certs.Finding{{
		Subject: "CN=a", NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, State: certs.Expiring,
	}}
	if diff := cmp.Diff(want, bundle.Findings(now)); diff != "" {
		t.Errorf("bundle (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, pair.Findings(now)); diff != "" {
		t.Errorf("key pair (-want +got):\n%s", diff)
	}
}

func TestFindingsNameCertificatesWithoutASubject(t *testing.T) {
	for name, tc := range map[string]struct {
		template x509.Certificate
		want     string
	}{
		"by their DNS name": {
			x509.Certificate{SerialNumber: big.NewInt(5), DNSNames: []string{"r.example.com"}}, "r.example.com",
		},
		"by their number": {x509.Certificate{SerialNumber: big.NewInt(5)}, "serial number 5"},
	} {
		i := sign(t, selfSigned(t, 1, "").key, &tc.template)
		bundle, err := certs.ParseBundle(i.certPEM())
		if err != nil {
			t.Fatal(err)
		}
		if got := bundle.Findings(time.Now())[0].Subject; got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
