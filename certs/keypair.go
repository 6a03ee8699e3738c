package certs

// KeyPair is a certificate chain and its private key. It is immutable and safe for concurrent use.
type KeyPair struct {
	certPEM, keyPEM []byte
}
