package rig_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func newCA(t *testing.T) *rig.CA {
	t.Helper()
	ca, err := rig.NewCA("test CA")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leaf(t *testing.T, certPEM, keyPEM []byte) *x509.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestIssuedCertificates(t *testing.T) {
	ca := newCA(t)
	tests := map[string]struct {
		options rig.CertOptions
		verify  x509.VerifyOptions
		ok      bool
	}{
		"a server is trusted for its IP address": {
			rig.CertOptions{Hosts: []string{"127.0.0.1:5000", "mirror.example.com"}},
			x509.VerifyOptions{DNSName: "127.0.0.1", Roots: ca.Pool()}, true},
		"a server is trusted for its name": {
			rig.CertOptions{Hosts: []string{"127.0.0.1:5000", "mirror.example.com"}},
			x509.VerifyOptions{DNSName: "mirror.example.com", Roots: ca.Pool()}, true},
		"a server is not trusted for another name": {
			rig.CertOptions{Hosts: []string{"mirror.example.com"}},
			x509.VerifyOptions{DNSName: "other.example.com", Roots: ca.Pool()}, false},
		"a server is not trusted by another CA": {
			rig.CertOptions{Hosts: []string{"mirror.example.com"}},
			x509.VerifyOptions{DNSName: "mirror.example.com", Roots: newCA(t).Pool()}, false},
		"an expired server is not trusted": {
			rig.CertOptions{Hosts: []string{"mirror.example.com"}, NotAfter: time.Now().Add(-time.Minute)},
			x509.VerifyOptions{DNSName: "mirror.example.com", Roots: ca.Pool()}, false},
		"a server is no client": {
			rig.CertOptions{Hosts: []string{"mirror.example.com"}},
			x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
		"a client is a client": {
			rig.CertOptions{CommonName: "node", Client: true},
			x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			certPEM, keyPEM, err := ca.IssueWith(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			_, err = leaf(t, certPEM, keyPEM).Verify(tt.verify)
			if (err == nil) != tt.ok {
				t.Errorf("verify: %v, want trusted %t", err, tt.ok)
			}
		})
	}
}
