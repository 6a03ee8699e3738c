package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// CA is a certificate authority for tests. Its methods may be called concurrently.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// CertOptions describes a certificate. The zero value of a field means its default.
type CertOptions struct {
	// Hosts are DNS names and IP addresses of a server. A port is dropped.
	Hosts []string
	// CommonName defaults to the first host.
	CommonName string
	// Organizations are, for Kubernetes, the groups that a client is in.
	Organizations []string
	// NotBefore defaults to an hour ago.
	NotBefore time.Time
	// NotAfter defaults to a day from now for a certificate and ten years for a CA.
	NotAfter time.Time
	// Client makes a client certificate. Otherwise it is a server's.
	Client bool
}

func (o CertOptions) template(lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    o.NotBefore,
		NotAfter:     o.NotAfter,
		Subject:      pkix.Name{CommonName: o.CommonName, Organization: o.Organizations},
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = time.Now().Add(-time.Hour)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = time.Now().Add(lifetime)
	}
	for _, h := range o.Hosts {
		if host, _, err := net.SplitHostPort(h); err == nil {
			h = host
		}
		if t.Subject.CommonName == "" {
			t.Subject.CommonName = h
		}
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return t, nil
}

// NewCA makes an authority that is valid for ten years.
func NewCA(name string) (*CA, error) {
	return NewCAWith(CertOptions{CommonName: name})
}

// NewCAWith makes an authority with the given name and dates.
func NewCAWith(o CertOptions) (*CA, error) {
	t, err := o.template(10 * 365 * 24 * time.Hour)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of CA %q: %w", o.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", o.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", o.CommonName, err)
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// PEM is the authority's certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// keyPEM is the authority's private key.
func (ca *CA) keyPEM() ([]byte, error) { return encodeKey(ca.key) }

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Pool holds the authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Issue makes a server certificate for the hosts, valid for a day.
func (ca *CA) Issue(hosts ...string) (certPEM, keyPEM []byte, err error) {
	return ca.IssueWith(CertOptions{Hosts: hosts})
}

// IssueClient makes a client certificate, valid for a day.
func (ca *CA) IssueClient(name string) (certPEM, keyPEM []byte, err error) {
	return ca.IssueWith(CertOptions{CommonName: name, Client: true})
}

// IssueWith makes the certificate that the options describe, for example one that has expired.
func (ca *CA) IssueWith(o CertOptions) (certPEM, keyPEM []byte, err error) {
	t, err := o.template(24 * time.Hour)
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if o.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %q: %w", t.Subject.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %q: %w", t.Subject.CommonName, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("encode the key for %q: %w", t.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}
