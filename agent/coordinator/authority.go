package coordinator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// caLife is how long a CA of the coordinator's own is valid, servingLife how long the certificates that it signs are. Both are
	// renewed when a third is left.
	caLife      = 365 * 24 * time.Hour
	servingLife = 7 * 24 * time.Hour
	// caKnown is how long a new CA is announced before anything is signed by it, so that every agent knows it.
	caKnown = 10 * time.Minute
	// backdate allows for clocks that differ.
	backdate = 5 * time.Minute
)

// authority is what the coordinator's certificates are signed by: a CA, and the one before while it counts.
type authority struct {
	now, old *issuer // old may be nil
}

// issuer is one CA.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(now time.Time) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for the coordinator's CA: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "hotplate coordinator CA"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		// Whoever has the key can be nobody but the coordinator.
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{report.CoordinatorName},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the coordinator's CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the coordinator's CA: %w", err)
	}
	return &issuer{cert: cert, key: key}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it does not fail
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// due tells whether less than a third of a certificate's life is left.
func due(cert *x509.Certificate, now time.Time) bool {
	return cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/3
}

// renew returns the authority as it should be from now on, and whether that is another one.
func (a authority) renew(now time.Time) (authority, bool, error) {
	if a.now != nil && !due(a.now.cert, now) {
		if a.old != nil && now.After(a.old.cert.NotAfter) {
			a.old = nil
			return a, true, nil
		}
		return a, false, nil
	}
	next, err := newIssuer(now)
	if err != nil {
		return a, false, err
	}
	return authority{now: next, old: a.now}, true, nil
}

// signer is the CA to sign with: a new one only when agents know it.
func (a authority) signer(now time.Time) *issuer {
	if a.old != nil && now.Before(a.old.cert.NotAfter) && now.Before(a.now.cert.NotBefore.Add(backdate+caKnown)) {
		return a.old
	}
	return a.now
}

// sign makes the certificate that the coordinator serves with.
func (a authority) sign(now time.Time) (*tls.Certificate, error) {
	by := a.signer(now)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the coordinator's key: %w", err)
	}
	end := now.Add(servingLife)
	if end.After(by.cert.NotAfter) {
		end = by.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: report.CoordinatorName}, DNSNames: []string{report.CoordinatorName},
		NotBefore: now.Add(-backdate), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("make the coordinator's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the coordinator's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// announced are the CAs that agents are to trust, in PEM.
func (a authority) announced() []byte {
	out := a.now.certPEM()
	if a.old != nil {
		out = append(out, a.old.certPEM()...)
	}
	return out
}

func (i *issuer) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}
