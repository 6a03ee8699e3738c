package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// ErrRangeIgnored says that the reply to a range request was not that range, or that the host denied that there is such a
// range. The blob may still be had in one stream.
var ErrRangeIgnored = errors.New("the registry does not honour range requests")

// ErrStalled says that no byte arrived for the stall timeout.
var ErrStalled = errors.New("no bytes arrived")

// maxErrorBody is how much of an error reply is read to find the registry's own words.
const maxErrorBody = 8 << 10

// maxErrorText is how much of the registry's own words is shown.
const maxErrorText = 200

// StatusError is a reply that is not a success.
type StatusError struct {
	Code int
	// Text is what the registry said, shortened; empty if nothing.
	Text string
	// RetryAfter is how long the registry asked to be left alone; zero if it did not.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code))
	if e.Text != "" {
		s += fmt.Sprintf(" (%q)", e.Text)
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(", retry after %s", e.RetryAfter)
	}
	return s
}

// SizeError is a reply that tells another size than the manifest does.
type SizeError struct {
	Want, Got int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the registry has %d bytes, the manifest says %d", e.Got, e.Want)
}

// HostError is what went wrong at one host.
type HostError struct {
	Host string
	// Doing says what was asked, such as "resolve harbor.example.com/a/b:v1".
	Doing string
	Err   error
}

func (e *HostError) Error() string {
	s := fmt.Sprintf("%s at %s: %v", e.Doing, e.Host, e.Err)
	if h := hint(e.Host, e.Err); h != "" {
		s += ": " + h
	}
	return s
}

func (e *HostError) Unwrap() error { return e.Err }

// hint is the next step for a person, or empty.
func hint(host string, err error) string {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Code {
		case http.StatusUnauthorized, http.StatusForbidden:
			return "check the credentials for " + host + " and what they may read"
		case http.StatusNotFound, http.StatusGone:
			return "push it there, or correct the path of the mirror"
		}
	}
	var (
		unknown  x509.UnknownAuthorityError
		name     x509.HostnameError
		invalid  x509.CertificateInvalidError
		notHTTPS tls.RecordHeaderError
		dns      *net.DNSError
		op       *net.OpError
	)
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return "check the credentials for " + host
	case errors.As(err, &unknown):
		return "configure the CA of " + host + "'s certificate"
	case errors.As(err, &name), errors.As(err, &invalid):
		return "renew the certificate of " + host
	case errors.As(err, &notHTTPS):
		return host + " does not speak TLS: use http:// or the port that does"
	case errors.As(err, &dns):
		return "check the name and this node's DNS"
	case errors.As(err, &op):
		return "check that " + host + " is up and reachable from this node"
	}
	return ""
}

// newStatusError reads the reply's own words and closes its body.
func newStatusError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // an unreadable error is still that status
	resp.Body.Close()
	return &StatusError{Code: resp.StatusCode, Text: errorText(body), RetryAfter: retryAfter(resp, time.Now())}
}

// errorText finds the message of a registry's error reply (OCI distribution spec 1.1, "Error Codes").
func errorText(body []byte) string {
	var reply struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &reply) != nil || len(reply.Errors) == 0 {
		return ""
	}
	text := strings.TrimSpace(reply.Errors[0].Code + " " + reply.Errors[0].Message)
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "..."
	}
	return text
}

// brokenError is an exchange that ended without a complete reply.
type brokenError struct {
	doing string
	err   error
}

func (e *brokenError) Error() string { return e.doing + ": " + e.err.Error() }

func (e *brokenError) Unwrap() error { return e.err }

// clean returns err without what must not be shown. The query of a URL goes, because redirects carry signatures there, and
// a Location that net/http cannot parse, which it puts into its words (client.go, do, 1.26); errors of containerd's resolver
// become ours, so that they are read the same way everywhere.
func clean(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		own := &StatusError{Code: status.StatusCode, Text: errorText(status.Body)}
		if auth := (*authError)(nil); errors.As(err, &auth) {
			return &authError{fmt.Errorf("get a token from %s: %w", cleanURL(status.RequestURL), own)}
		}
		return own
	}
	var u *url.Error
	if errors.As(err, &u) {
		why := u.Err
		if strings.HasPrefix(why.Error(), "failed to parse Location header") {
			why = errLocation
		}
		return &brokenError{doing: strings.ToUpper(u.Op) + " " + cleanURL(u.URL), err: why}
	}
	if errdefs.IsNotFound(err) {
		return &StatusError{Code: http.StatusNotFound}
	}
	return err
}

// cleanURL is scheme, host and path of a URL.
func cleanURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(a URL that cannot be parsed)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// transient tells whether the same request to the same host may succeed a little later.
func transient(err error) bool {
	var (
		status  *StatusError
		broken  *brokenError
		cert    *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		dns     *net.DNSError
		netErr  net.Error
	)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrRangeIgnored), errors.Is(err, errRedirect),
		errors.Is(err, errLocation), errors.Is(err, errHeld), errors.Is(err, docker.ErrInvalidAuthorization):
		return false
	case errors.As(err, &status):
		return status.Code >= 500 && status.Code != http.StatusNotImplemented ||
			status.Code == http.StatusTooManyRequests || status.Code == http.StatusRequestTimeout
	case errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &record), errors.As(err, &alert):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	// The last two come bare from bodies that containerd reads: tokens and manifests.
	return errors.As(err, &broken) || errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, ErrStalled)
}

// unreachable tells whether no connection came about at all.
func unreachable(err error) bool {
	var (
		cert *tls.CertificateVerificationError
		op   *net.OpError
	)
	return errors.As(err, &cert) || errors.As(err, &op) && op.Op == "dial"
}
