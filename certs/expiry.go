package certs

import (
	"crypto/x509"
	"time"
)

// ExpiryWarning is how long before its end a certificate counts as Expiring.
const ExpiryWarning = 30 * 24 * time.Hour

// State says what the clock makes of a certificate.
type State string

// The states of a certificate.
const (
	Valid       State = "Valid"
	Expiring    State = "Expiring"
	Expired     State = "Expired"
	NotYetValid State = "NotYetValid"
)

// Check returns the state of cert at now.
func Check(cert *x509.Certificate, now time.Time) State {
	switch {
	case now.After(cert.NotAfter):
		return Expired
	case now.Before(cert.NotBefore):
		return NotYetValid
	case now.Add(ExpiryWarning).After(cert.NotAfter):
		return Expiring
	default:
		return Valid
	}
}

// Finding is the state of one certificate.
type Finding struct {
	Subject             string
	NotBefore, NotAfter time.Time
	State               State
}

// Findings returns the state of every certificate of the bundle, in the order of Certificates.
func (b Bundle) Findings(now time.Time) []Finding { return findings(b.certs, now) }

// Findings returns the state of every certificate of the chain, leaf first.
func (k KeyPair) Findings(now time.Time) []Finding {
	if k.get == nil {
		return nil
	}
	return findings(k.get().chain, now)
}

func findings(certs []*x509.Certificate, now time.Time) []Finding {
	out := make([]Finding, 0, len(certs))
	for _, c := range certs {
		out = append(out, Finding{
			Subject: subject(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter, State: Check(c, now),
		})
	}
	return out
}

// subject names cert for people; certificates without a subject go by their first DNS name or their serial number.
func subject(cert *x509.Certificate) string {
	switch {
	case cert.Subject.String() != "":
		return cert.Subject.String()
	case len(cert.DNSNames) > 0:
		return cert.DNSNames[0]
	default:
		return "serial number " + cert.SerialNumber.String()
	}
}
