package agent

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
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

const (
	// maxChecks is how many mirrors are looked at at once.
	maxChecks = 8
	// checkTimeout bounds one look at a mirror, all its connections together.
	checkTimeout = 10 * time.Second
	// handshakes is how many connections in a row must verify before a CA counts as proven. A load balancer may
	// have servers whose certificate is still the old one.
	handshakes = 3
)

// mirrorCheck is what one look at an endpoint found.
type mirrorCheck struct {
	endpoint endpoint // with the TLS settings that the config wanted, without overlap
	status   string
	err      error
}

// watchMirrors looks at the endpoints of the config, whenever they change and by a timer, until ctx ends. It has a
// goroutine of its own, because a mirror that hangs must not hold up the repair of the hosts directory.
func (r *reconciler) watchMirrors(ctx context.Context) {
	var all []endpoint
	timer := time.NewTimer(idleInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case all = <-r.toCheck:
		case <-timer.C:
		}
		checks := checkMirrors(ctx, all)
		select {
		case <-ctx.Done():
			return
		case r.checked <- checks:
		}
		timer.Reset(idleInterval)
		for _, c := range checks {
			if c.err != nil {
				timer.Reset(unsettledInterval)
			}
		}
	}
}

// checkMirrors looks at all endpoints and returns what it found by their keys.
func checkMirrors(ctx context.Context, all []endpoint) map[string]mirrorCheck {
	checks := make([]mirrorCheck, len(all))
	var g errgroup.Group
	g.SetLimit(maxChecks)
	for i, e := range all {
		g.Go(func() error {
			status, err := checkMirror(ctx, e.url, *e.tls)
			checks[i] = mirrorCheck{endpoint: e, status: status, err: err}
			return nil
		})
	}
	_ = g.Wait() // the checks hold their own errors
	out := make(map[string]mirrorCheck, len(all))
	for _, c := range checks {
		out[c.endpoint.key()] = c
	}
	return out
}

// sawMirrors takes what a look at the mirrors found: it ends the overlap of CAs where the new one is proven, and tells.
func (r *reconciler) sawMirrors(ctx context.Context, checks map[string]mirrorCheck) {
	if r.current == nil {
		return // nothing is known of what is used, so nothing may be forgotten
	}
	ended := r.prove(checks)
	r.reportMirrors(checks)
	if ended {
		r.apply(ctx)
	}
}

// prove records which endpoints verified against the CAs that the config names now, and those alone. It reports whether
// that makes an old CA superfluous.
func (r *reconciler) prove(checks map[string]mirrorCheck) (ended bool) {
	var errs []error
	used := make(map[string]bool)
	for _, e := range endpoints(r.regs) {
		used[e.key()] = true
		c, ok := checks[e.key()]
		if !ok || c.err != nil || e.tls.SkipVerify || !c.endpoint.tls.CA.Equal(e.tls.CA) {
			continue
		}
		if _, overlap := r.trust.of(e); overlap {
			ended = true
			r.log.Info("new CA proven, old one dropped", "registry", e.registry, "mirror", e.url)
		}
		errs = append(errs, r.trust.prove(e.key(), e.tls.CA))
	}
	errs = append(errs, r.trust.keep(used))
	if err := errors.Join(errs...); err != nil {
		r.log.Error("proven CAs are not saved; a restart in the middle of a rotation would forget them", "err", err)
	}
	return ended
}

// reportMirrors states what was seen of the mirrors, and logs what is new.
func (r *reconciler) reportMirrors(checks map[string]mirrorCheck) {
	byRegistry := make(map[string][]report.Mirror)
	for _, e := range endpoints(r.regs) {
		c, ok := checks[e.key()]
		if !ok {
			continue
		}
		m := report.Mirror{URL: e.url, Reachable: c.err == nil, Message: c.status}
		if c.err != nil {
			m.Message = c.err.Error()
		}
		_, m.Overlap = r.trust.of(e)
		byRegistry[e.registry] = append(byRegistry[e.registry], m)
	}
	r.view.mirrors(byRegistry)
}

// checkMirror opens connections to the host of endpoint, a URL, that trust what t says and nothing else of ours, and asks
// for /v2/. It returns the answer's status line. An error means that the endpoint could not be reached or did not
// prove itself; any HTTP answer is a success.
func checkMirror(ctx context.Context, endpoint string, t hostconfig.TLS) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conf, err := tlsConfig(t)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   conf,
		DisableKeepAlives: true, // every request makes a handshake
	}
	client := &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect is an answer
		},
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	u.Path = "/v2/" // the API's own, which needs no project
	var status string
	for range handshakes {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", explain(err)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // only the status counts
		resp.Body.Close()
		status = resp.Status
	}
	return status, nil
}

func tlsConfig(t hostconfig.TLS) (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: t.SkipVerify}
	if !t.CA.IsZero() {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's CA roots: %w", err)
		}
		for _, c := range t.CA.Certificates() {
			pool.AddCert(c)
		}
		conf.RootCAs = pool
	}
	if t.Client != nil {
		pair, err := t.Client.TLS()
		if err != nil {
			return nil, fmt.Errorf("use client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// explain adds what to do about a certificate that does not verify, and leaves our own port out: with it, each look would
// have a new message.
func explain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		op.Source = nil
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; name the CA that signed it under ca", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w; renew the server's certificate", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w; use a URL with a name that the certificate holds", err)
	}
	return err
}
