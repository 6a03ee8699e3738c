package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// issued is a certificate with its key, self-signed.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (i issued) certPEM() []byte { return block("CERTIFICATE", i.cert.Raw) }

func (i issued) pkcs8() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		panic(err)
	}
	return block("PRIVATE KEY", der)
}

func block(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

// selfSigned issues a certificate that is valid for a day around 2026-11-21, with a key made from seed.
func selfSigned(t testing.TB, seed byte, name string) issued {
	t.Helper()
	key := ed25519.NewKeyFromSeed(append(make([]byte, 31), seed))
	return sign(t, key, &x509.Certificate{
		SerialNumber: big.NewInt(int64(seed) + 1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
	})
}

func sign(t testing.TB, key crypto.Signer, template *x509.Certificate) issued {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued{cert: cert, key: key}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
