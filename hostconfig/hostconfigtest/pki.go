package hostconfigtest

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/hotplate-dev/hotplate/certs"
)

// CA returns a bundle of one self-signed CA. Equal numbers give equal certificates; their keys are known to everybody.
func CA(n byte) certs.Bundle {
	der, _ := selfSigned(n, fmt.Sprintf("test CA %d", n), true)
	b, err := certs.ParseBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		panic(err)
	}
	return b
}

// KeyPair returns a self-signed client certificate. Equal numbers give equal pairs; their keys are known to everybody.
func KeyPair(n byte) *certs.KeyPair {
	der, key := selfSigned(n, fmt.Sprintf("test client %d", n), false)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	k, err := certs.ParseKeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		panic(err)
	}
	return &k
}

// selfSigned is deterministic: Ed25519 signatures take no random numbers.
func selfSigned(n byte, name string, ca bool) ([]byte, ed25519.PrivateKey) {
	key := ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), n))
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(int64(n) + 1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true,
		IsCA:                  ca,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return der, key
}
