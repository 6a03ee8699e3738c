package certs

import "crypto/x509"

// Bundle is a set of CA certificates. Equal sets have equal bytes, whatever order and repetition they were read in.
// A Bundle is immutable and safe for concurrent use; the zero Bundle is empty.
type Bundle struct {
	certs []*x509.Certificate // sorted by DER, no two equal
}
