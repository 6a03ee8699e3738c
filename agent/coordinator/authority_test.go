package coordinator

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// verify checks a serving certificate as an agent does.
func verify(t *testing.T, c *tls.Certificate, roots []byte, now time.Time, name string) error {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		t.Fatalf("no certificates in %q", roots)
	}
	_, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// TestAgentsTrustTheCoordinatorThroughAYear: whatever was announced ten minutes ago verifies what is served now.
func TestAgentsTrustTheCoordinatorThroughAYear(t *testing.T) {
	var a authority
	var served *tls.Certificate
	type said struct {
		at    time.Time
		roots []byte
	}
	var history []said
	renewals := 0
	var step time.Duration
	for now := noon; now.Before(noon.Add(3 * caLife)); now = now.Add(step) {
		if step = time.Minute; len(history) > 0 && now.Sub(history[len(history)-1].at) > time.Hour {
			step = 12 * time.Hour
		}
		next, changed, err := a.renew(now)
		if err != nil {
			t.Fatal(err)
		}
		if changed {
			renewals++
		}
		a = next
		if len(history) == 0 || !bytes.Equal(history[len(history)-1].roots, a.announced()) {
			history = append(history, said{now, a.announced()})
		}
		if served == nil || due(served.Leaf, now) {
			if served, err = a.sign(now); err != nil {
				t.Fatal(err)
			}
		}
		for i, h := range history { // what an agent that is ten minutes behind trusts
			if last := i == len(history)-1; last || now.Sub(history[i+1].at) < caKnown {
				if err := verify(t, served, h.roots, now, report.CoordinatorName); err != nil {
					t.Fatalf("%s, announced %s: %v", now, h.at, err)
				}
			}
		}
	}
	if renewals < 4 {
		t.Errorf("renewed %d times", renewals)
	}
}

func TestTheCAIsForTheCoordinatorOnly(t *testing.T) {
	a, _, err := authority{}.renew(noon)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.sign(noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, c, a.announced(), noon, "kubernetes.default.svc"); err == nil {
		t.Error("it stands for the API server too")
	}
	if err := verify(t, c, a.announced(), noon.Add(servingLife+time.Minute), report.CoordinatorName); err == nil {
		t.Error("it is valid for ever")
	}
}

func keyPEM(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
