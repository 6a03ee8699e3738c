// Package certs reads CA bundles and key pairs strictly, names them by their content and tells when they expire.
//
// Its steps:
//
//  1. Split PEM text into blocks. What looks like a block and is not one is an error, where crypto/x509 skips it.
//  2. Parse each block. A bundle holds certificates only; a private key in one is an error.
//  3. Put the certificates of a bundle into one order, each once: equal sets have equal bytes and equal file names.
//  4. Check that a key belongs to its certificate, and bring both into one encoding.
//
// The package writes nothing, so a crash leaves nothing. Reading is bounded: a source of more than [MaxSize] bytes or
// more than [MaxCertificates] certificates is an error.
package certs
