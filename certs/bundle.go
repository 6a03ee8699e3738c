package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Bundle is a set of CA certificates. Equal sets have equal bytes, whatever order and repetition they were read in.
// A Bundle is immutable and safe for concurrent use; the zero Bundle is empty.
type Bundle struct {
	certs []*x509.Certificate // sorted by DER, no two equal
}

// ParseBundle reads a CA bundle: one or more CERTIFICATE blocks, with text between them allowed. Anything else is an
// error that says which block is at fault.
func ParseBundle(data []byte) (Bundle, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return Bundle{}, err
	}
	return newBundle(certs), nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	blocks, err := splitPEM(data)
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, errors.New("it holds no PEM block of type CERTIFICATE")
	}
	certs := make([]*x509.Certificate, 0, len(blocks))
	for i, block := range blocks {
		if isPrivateKey(block) {
			return nil, fmt.Errorf("block %d: it is a private key (%s); remove it, only certificates belong here",
				i+1, block.Type)
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("block %d: it is a %q; only CERTIFICATE blocks are allowed", i+1, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", i+1, err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// newBundle sorts certs in place.
func newBundle(certs []*x509.Certificate) Bundle {
	slices.SortFunc(certs, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return Bundle{certs: slices.CompactFunc(certs, (*x509.Certificate).Equal)}
}

// Merge returns the bundle of all certificates in bundles.
func Merge(bundles ...Bundle) Bundle {
	var all []*x509.Certificate
	for _, b := range bundles {
		all = append(all, b.certs...)
	}
	return newBundle(all)
}

// PEM returns the bundle's canonical text; nil for an empty bundle.
func (b Bundle) PEM() []byte { return encodeCertificates(b.certs) }

func encodeCertificates(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: c.Raw})...)
	}
	return out
}

// IsZero reports whether the bundle is empty.
func (b Bundle) IsZero() bool { return len(b.certs) == 0 }

// Len returns the number of certificates.
func (b Bundle) Len() int { return len(b.certs) }

// Equal reports whether both bundles hold the same certificates.
func (b Bundle) Equal(o Bundle) bool {
	return slices.EqualFunc(b.certs, o.certs, (*x509.Certificate).Equal)
}

// Certificates returns the certificates, sorted by their DER bytes. The slice is the caller's; what it points to is
// shared and must not be changed.
func (b Bundle) Certificates() []*x509.Certificate { return slices.Clone(b.certs) }

// FileName returns the name of a file that holds PEM(): ca-<16 hex digits>.pem. The digits are the start of the
// SHA-256 of the content. The suffix is not .crt, because containerd takes every *.crt of a host directory for a CA of
// the registry itself when hosts.toml does not parse (loadCertFiles in core/remotes/docker/config/hosts.go, 2.4.2).
func (b Bundle) FileName() string { return "ca-" + shortHash(b.PEM()) + ".pem" }

func shortHash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Pool returns a copy of base with the bundle's certificates added, as containerd builds it; a nil base counts as
// empty.
func (b Bundle) Pool(base *x509.CertPool) *x509.CertPool {
	pool := x509.NewCertPool()
	if base != nil {
		pool = base.Clone()
	}
	for _, c := range b.certs {
		pool.AddCert(c)
	}
	return pool
}

// Without returns the bundle less the certificates for which drop is true.
func (b Bundle) Without(drop func(*x509.Certificate) bool) Bundle {
	return Bundle{certs: slices.DeleteFunc(slices.Clone(b.certs), drop)}
}

// String says how many certificates there are and what their file is called.
func (b Bundle) String() string {
	if b.IsZero() {
		return "no certificates"
	}
	return fmt.Sprintf("%s (%d certificates)", b.FileName(), b.Len())
}
