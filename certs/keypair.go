package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeyPair is a certificate chain and its private key. It is immutable and safe for concurrent use. Printing one, in
// whatever way, never shows the key. The zero KeyPair is empty.
type KeyPair struct {
	// get returns the content; nil for the zero KeyPair. It is a function because fmt cannot look into one: in an
	// unexported field of somebody else's struct it does not call our methods, and follows pointers.
	get func() *pair
}

type pair struct {
	chain           []*x509.Certificate // leaf first, never empty
	certPEM, keyPEM []byte              // canonical
}

// ParseKeyPair reads a certificate chain, leaf first, and the private key of the leaf. The chain may hold nothing but
// CERTIFICATE blocks, the key file nothing but one unencrypted key (and the EC PARAMETERS that openssl writes before
// an EC key). Errors never quote the key.
func ParseKeyPair(certPEM, keyPEM []byte) (KeyPair, error) {
	chain, certErr := parseCertificates(certPEM)
	if certErr != nil {
		certErr = fmt.Errorf("certificate: %w", certErr)
	}
	key, keyErr := parseKey(keyPEM)
	if keyErr != nil {
		keyErr = fmt.Errorf("private key: %w", keyErr)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return KeyPair{}, err
	}
	p := &pair{chain: chain, certPEM: encodeCertificates(chain), keyPEM: key}
	if _, err := tls.X509KeyPair(p.certPEM, p.keyPEM); err != nil {
		for _, c := range chain[1:] {
			if _, err := tls.X509KeyPair(encodeCertificates([]*x509.Certificate{c}), p.keyPEM); err == nil {
				return KeyPair{}, fmt.Errorf("the key belongs to %q, which is not the first certificate; "+
					"put it first", subject(c))
			}
		}
		return KeyPair{}, fmt.Errorf("the private key does not belong to the certificate %q", subject(chain[0]))
	}
	return KeyPair{get: func() *pair { return p }}, nil
}

// parseKey returns the key in PKCS #8, the one encoding for every kind of key.
func parseKey(data []byte) ([]byte, error) {
	blocks, err := splitPEM(data)
	if err != nil {
		return nil, err
	}
	var found *pem.Block
	for i, block := range blocks {
		switch {
		case block.Type == "EC PARAMETERS":
		case !isPrivateKey(block):
			return nil, fmt.Errorf("block %d: it is a %q; only the key belongs here", i+1, block.Type)
		case found != nil:
			return nil, fmt.Errorf("block %d: it is a second private key; keep one", i+1)
		default:
			found = block
		}
	}
	if found == nil {
		return nil, errors.New("it holds no PEM block of type PRIVATE KEY")
	}
	key, err := decodeKey(found)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("it is of a kind that TLS does not know; use RSA, ECDSA or Ed25519")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(block *pem.Block) (key any, err error) {
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is encrypted; containerd cannot ask for a passphrase, decrypt it with " +
			"`openssl pkey`")
	default:
		return nil, fmt.Errorf("it is a %q, which TLS does not know; convert it with `openssl pkey`", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not parse; check it with `openssl pkey -check`", block.Type)
	}
	return key, nil
}

// IsZero reports whether the pair is empty.
func (k KeyPair) IsZero() bool { return k.get == nil }

// CertPEM returns the chain's canonical text, leaf first; nil for an empty pair.
func (k KeyPair) CertPEM() []byte {
	if k.get == nil {
		return nil
	}
	return bytes.Clone(k.get().certPEM)
}

// KeyPEM returns the key in PKCS #8; nil for an empty pair.
func (k KeyPair) KeyPEM() []byte {
	if k.get == nil {
		return nil
	}
	return bytes.Clone(k.get().keyPEM)
}

// CertFileName returns the name of a file that holds CertPEM(): client-<16 hex digits>.pem.
func (k KeyPair) CertFileName() string { return "client-" + shortHash(k.CertPEM()) + ".pem" }

// KeyFileName returns the name of a file that holds KeyPEM(). It is made from the certificate's hash, not the key's,
// so that nobody can check a guess of the key by it.
func (k KeyPair) KeyFileName() string { return "client-" + shortHash(k.CertPEM()) + "-key.pem" }

// Leaf returns the certificate that the key belongs to, which must not be changed; nil for an empty pair.
func (k KeyPair) Leaf() *x509.Certificate {
	if k.get == nil {
		return nil
	}
	return k.get().chain[0]
}

// TLS returns the pair as crypto/tls wants it.
func (k KeyPair) TLS() (tls.Certificate, error) {
	if k.get == nil {
		return tls.Certificate{}, errors.New("the key pair is empty")
	}
	return tls.X509KeyPair(k.get().certPEM, k.get().keyPEM)
}

// Equal reports whether both pairs have the same chain and key.
func (k KeyPair) Equal(o KeyPair) bool {
	return bytes.Equal(k.CertPEM(), o.CertPEM()) && bytes.Equal(k.KeyPEM(), o.KeyPEM())
}

// String names the certificate.
func (k KeyPair) String() string {
	if k.get == nil {
		return "no key pair"
	}
	return fmt.Sprintf("%s (%s)", k.CertFileName(), subject(k.get().chain[0]))
}

// GoString is String.
func (k KeyPair) GoString() string { return k.String() }

// Format prints String for every verb: without it, %d would print the key's bytes.
func (k KeyPair) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is String.
func (k KeyPair) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON is String, quoted.
func (k KeyPair) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

var (
	_ fmt.Formatter  = KeyPair{}
	_ slog.LogValuer = KeyPair{}
	_ json.Marshaler = KeyPair{}
)
