package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

// ca is a certificate authority of a test.
type ca struct {
	cert   *x509.Certificate
	key    ed25519.PrivateKey
	bundle certs.Bundle
}

// newCA makes one that is valid until notAfter.
func newCA(t testing.TB, name string, notAfter time.Time) ca {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.Add(-1000 * time.Hour), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c := ca{cert: template, key: key}
	der := c.sign(t, template, key)
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if c.bundle, err = certs.ParseBundle(pemOf("CERTIFICATE", der)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c ca) sign(t testing.TB, template *x509.Certificate, key ed25519.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue makes a certificate for 127.0.0.1, or for a DNS name, and for clients.
func (c ca) issue(t testing.TB, dnsName string, notAfter time.Time) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: notAfter.Add(-1000 * time.Hour), NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if dnsName != "" {
		template.DNSNames = []string{dnsName}
	} else {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	return tls.Certificate{Certificate: [][]byte{c.sign(t, template, key)}, PrivateKey: key}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func trustIn(t testing.TB) *trust {
	t.Helper()
	tr, err := loadTrust(filepath.Join(t.TempDir(), "proven-cas.json"))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestWhichCAsAreTrusted(t *testing.T) {
	old, wanted, none := hostconfigtest.CA(1), hostconfigtest.CA(2), certs.Bundle{}
	both := certs.Merge(old, wanted)
	expired := newCA(t, "expired", time.Now().Add(-time.Hour)).bundle
	cases := map[string]struct {
		proven  []certs.Bundle // nothing, or the one that was
		wanted  certs.Bundle
		want    certs.Bundle
		overlap bool
	}{
		"nothing was proven, so nothing overlaps":      {nil, wanted, wanted, false},
		"the wanted one was proven":                    {[]certs.Bundle{wanted}, wanted, wanted, false},
		"another one was proven, so both are trusted":  {[]certs.Bundle{old}, wanted, both, true},
		"from none to a bundle needs no overlap":       {[]certs.Bundle{none}, wanted, wanted, false},
		"from a bundle to none keeps the bundle":       {[]certs.Bundle{old}, none, old, true},
		"an expired one does not overlap":              {[]certs.Bundle{expired}, wanted, wanted, false},
		"of a bundle, only what is not expired does":   {[]certs.Bundle{certs.Merge(old, expired)}, wanted, both, true},
		"a wanted bundle that holds the proven one":    {[]certs.Bundle{old}, both, both, false},
		"a part of the proven bundle keeps the others": {[]certs.Bundle{both}, wanted, both, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tr := trustIn(t)
			for _, b := range c.proven {
				if err := tr.prove("key", b); err != nil {
					t.Fatal(err)
				}
			}
			got, overlap := tr.effective("key", c.wanted)
			if !got.Equal(c.want) || overlap != c.overlap {
				t.Errorf("got %s, overlap %v; want %s, %v", got, overlap, c.want, c.overlap)
			}
			if err := tr.prove("key", c.wanted); err != nil {
				t.Fatal(err)
			}
			if got, overlap := tr.effective("key", c.wanted); !got.Equal(c.wanted) || overlap {
				t.Errorf("proven, and still %s is trusted, overlap %v", got, overlap)
			}
		})
	}
}

func TestTwoRegistriesMayReachOneMirrorWithDifferentCAs(t *testing.T) {
	const mirror = "https://harbor.example.com"
	first, second, next := hostconfigtest.CA(1), hostconfigtest.CA(2), hostconfigtest.CA(3)
	regs := func(a, b certs.Bundle) []hostconfig.Registry {
		return []hostconfig.Registry{
			{Host: "a.example.com", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{{URL: mirror,
				TLS: hostconfig.TLS{CA: a}}}},
			{Host: "b.example.com", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{{URL: mirror,
				TLS: hostconfig.TLS{CA: b}}}},
		}
	}
	tr := trustIn(t)
	for _, e := range endpoints(regs(first, second)) {
		if err := tr.prove(e.key(), e.tls.CA); err != nil {
			t.Fatal(err)
		}
	}
	wanted := regs(next, second)
	got := tr.overlapped(wanted)
	if ca := got[0].Mirrors[0].TLS.CA; !ca.Equal(certs.Merge(first, next)) {
		t.Errorf("the registry whose CA changes trusts %s, want old and new", ca)
	}
	if ca := got[1].Mirrors[0].TLS.CA; !ca.Equal(second) {
		t.Errorf("the other registry trusts %s, want its own alone", ca)
	}
	if !wanted[0].Mirrors[0].TLS.CA.Equal(next) {
		t.Error("what the config wants was changed")
	}
}

func TestWhatWasProvenSurvivesARestart(t *testing.T) {
	tr := trustIn(t)
	for key, b := range map[string]certs.Bundle{"a": hostconfigtest.CA(1), "none": {}} {
		if err := tr.prove(key, b); err != nil {
			t.Fatal(err)
		}
	}
	again, err := loadTrust(tr.path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tr.proven, again.proven); diff != "" {
		t.Errorf("loaded otherwise than saved:\n%s", diff)
	}
	if _, ok := again.proven["none"]; !ok {
		t.Error("that the system's roots were enough is forgotten")
	}
	if err := again.keep(map[string]bool{"a": true}); err != nil {
		t.Fatal(err)
	}
	if again, err = loadTrust(tr.path); err != nil || len(again.proven) != 1 {
		t.Errorf("what is not used any more is kept: %v, %v", again.proven, err)
	}
	if info, err := os.Stat(tr.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestNothingIsWrittenWhenNothingChanges(t *testing.T) {
	tr := trustIn(t)
	if err := tr.prove("a", hostconfigtest.CA(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(tr.path); err != nil {
		t.Fatal(err)
	}
	if err := tr.prove("a", hostconfigtest.CA(1)); err != nil {
		t.Fatal(err)
	}
	if err := tr.keep(map[string]bool{"a": true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tr.path); !os.IsNotExist(err) {
		t.Errorf("it was written again: %v", err)
	}
}

func TestABrokenFileOfProvenCAsIsNamed(t *testing.T) {
	key := pemOf("PRIVATE KEY", []byte("x"))
	asJSON, err := json.Marshal(map[string]string{"a": string(key)})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"no JSON": "{", "no strings": `{"a": 1}`, "no certificates": `{"a": "hello"}`, "a key": string(asJSON),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "proven-cas.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := loadTrust(path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("got %v, want an error that names the file and says what to do", err)
			}
		})
	}
	if _, err := loadTrust(t.TempDir()); err == nil {
		t.Error("a directory is taken for a file")
	}
}
