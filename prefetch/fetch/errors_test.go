package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

func TestErrorsSayTheNextStep(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	overHTTP := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://h/v2/a?X-Signature=secret", Err: err}
	}
	for name, tc := range map[string]struct {
		err  error
		want []string
	}{
		"401":           {&StatusError{Code: 401}, []string{"401 Unauthorized", "check the credentials for h:1"}},
		"403 in words":  {&StatusError{Code: 403, Text: "DENIED no"}, []string{`403 Forbidden ("DENIED no")`, "what they may read"}},
		"404":           {&StatusError{Code: 404}, []string{"push it there, or correct the path of the mirror"}},
		"refused login": {fmt.Errorf("x: %w", docker.ErrInvalidAuthorization), []string{"check the credentials for h:1"}},
		"unknown CA": {overHTTP(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}),
			[]string{"x509", "configure the CA of h:1's certificate"}},
		"another name": {overHTTP(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}), []string{"renew the certificate of h:1"}},
		"expired": {overHTTP(x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}),
			[]string{"expired", "renew the certificate of h:1"}},
		"no TLS":       {overHTTP(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), []string{"use http://"}},
		"no such name": {overHTTP(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host"}}), []string{"this node's DNS"}},
		"refused":      {overHTTP(dial), []string{"GET https://h/v2/a: ", "connection refused", "up and reachable from this node"}},
		"of the resolver": {remoteerrors.ErrUnexpectedStatus{StatusCode: 502, RequestURL: "https://h/v2/a?X-Signature=secret",
			Body: []byte(`{"errors":[{"code":"UNKNOWN","message":"` + strings.Repeat("long ", 100) + `"}]}`)}, []string{"502 Bad Gateway", `("UNKNOWN long`, "..."}},
		"of a token server": {fmt.Errorf("authorize: %w", &authError{remoteerrors.ErrUnexpectedStatus{StatusCode: 401,
			RequestURL: "https://auth.example.com/token?account=robot"}}), []string{"get a token from https://auth.example.com/token: 401"}},
		"of a repository named token": {fmt.Errorf("token: %w", remoteerrors.ErrUnexpectedStatus{StatusCode: 500,
			RequestURL: "https://h/v2/token/manifests/v1"}), []string{"fetch a at h:1: 500 Internal"}},
		"not found by the resolver": {fmt.Errorf("a: %w", errdefs.ErrNotFound), []string{"404"}},
	} {
		got := (&HostError{Host: "h:1", Doing: "fetch a", Err: clean(tc.err)}).Error()
		for _, part := range append(tc.want, "fetch a at h:1: ") {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q lacks %q", name, got, part)
			}
		}
		if strings.Contains(got, "secret") || strings.Contains(got, "robot") {
			t.Errorf("%s: %q says too much", name, got)
		}
	}
}

func TestErrorTextIsTheRegistrysFirstError(t *testing.T) {
	for in, want := range map[string]string{
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"},{"code":"B"}]}`: "MANIFEST_UNKNOWN manifest unknown",
		`{"errors":[]}`: "", `{}`: "", `<html>`: "", "": "", `{"errors":[{"code":1}]}`: "",
	} {
		if got := errorText([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"https://a.example.com/x", "https://A.example.com:443/y"}:   true,
		{"http://a.example.com", "http://a.example.com:80"}:          true,
		{"https://a.example.com", "http://a.example.com"}:            false,
		{"https://a.example.com", "http://a.example.com:443"}:        false,
		{"https://a.example.com:8443", "https://a.example.com"}:      false,
		{"https://a.example.com", "https://b.a.example.com"}:         false,
		{"https://[2001:db8::1]:5000", "https://[2001:db8::1]:5000"}: true,
		{"https://[2001:db8::1]:5000", "https://[2001:db8::1]:5001"}: false,
	} {
		a, errA := url.Parse(pair[0])
		b, errB := url.Parse(pair[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got := sameOrigin(a, b); got != want {
			t.Errorf("%v: %v, want %v", pair, got, want)
		}
	}
}

func TestRedirectsEnd(t *testing.T) {
	check := checkRedirect(docker.RegistryHost{})
	req := &http.Request{URL: &url.URL{Scheme: "https", Host: "a"}, Header: http.Header{}}
	via := make([]*http.Request, maxRedirects)
	for i := range via {
		via[i] = req
	}
	if err := check(req, via[1:]); err != nil {
		t.Errorf("after %d: %v", maxRedirects-1, err)
	}
	if err := check(req, via); !errors.Is(err, errRedirect) || transient(clean(&url.Error{Op: "Get", Err: err})) {
		t.Errorf("after %d: %v", maxRedirects, err)
	}
}

func TestTransient(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"a connection reset":       {clean(&url.Error{Op: "Get", Err: &net.OpError{Op: "read", Err: errors.New("reset")}}), true},
		"a connection that closed": {clean(&url.Error{Op: "Get", Err: io.EOF}), true},
		"a stall":                  {clean(&url.Error{Op: "Get", Err: ErrStalled}), true},
		"something odd in HTTP":    {clean(&url.Error{Op: "Get", Err: errors.New("malformed response")}), true},
		"a token server's delay":   {context.DeadlineExceeded, true},
		"a cut token":              {&authError{fmt.Errorf("decode: %w", io.ErrUnexpectedEOF)}, true},
		"a manifest that stalls":   {fmt.Errorf("%w for 30s", ErrStalled), true},
		"a 404 that is cut":        {fmt.Errorf("%w: %w", &StatusError{Code: 404}, io.ErrUnexpectedEOF), false},
		"a refused client certificate": {clean(&url.Error{Op: "Get", Err: &net.OpError{Op: "remote error",
			Err: tls.AlertError(42)}}), false},
		"an unknown CA": {clean(&url.Error{Op: "Get", Err: x509.UnknownAuthorityError{}}), false},
		"cancelled":     {clean(&url.Error{Op: "Get", Err: context.Canceled}), false},
		"held":          {clean(&url.Error{Op: "Head", Err: fmt.Errorf("%w for another 1m0s", errHeld)}), false},
		"something":     {errors.New("something"), false},
	} {
		if got := transient(tc.err); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
