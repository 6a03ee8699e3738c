package link

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	dialTimeout = 5 * time.Second
	// askTimeout bounds one report and its answer.
	askTimeout = 20 * time.Second
	// maxToken bounds the token, maxComplaint what is read of an answer that is none, in bytes.
	maxToken     = 64 << 10
	maxComplaint = 512
)

// newTransport trusts whoever has a certificate of ca for the coordinator's name. It asks no proxy: the coordinator is a pod. There is
// a connection for each report, which resumes the TLS session: thousands that are kept would take most of the coordinator's memory.
func newTransport(ca string, dial func(context.Context, string, string) (net.Conn, error)) (*http.Transport, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("there is no certificate in the CA that it announces")
	}
	return &http.Transport{
		DialContext: dial,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: report.CoordinatorName, MinVersion: tls.VersionTLS13,
			ClientSessionCache: tls.NewLRUClientSessionCache(1)},
		TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: askTimeout, DisableKeepAlives: true,
	}, nil
}

// ask posts r and returns the answer.
func (l *Link) ask(ctx context.Context, r report.NodeReport) (report.Directive, error) {
	if err := l.connect(); err != nil {
		return report.Directive{}, err
	}
	token, err := readToken(l.cfg.TokenFile)
	if err != nil {
		return report.Directive{}, err
	}
	body, err := encode(r)
	if err != nil {
		return report.Directive{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+report.ReportPath, bytes.NewReader(body))
	if err != nil {
		return report.Directive{}, fmt.Errorf("ask the coordinator: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := l.client.Do(req)
	if err != nil {
		return report.Directive{}, fmt.Errorf("ask the coordinator: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	return answer(resp)
}

// readToken reads the token that the kubelet puts there.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the token for the coordinator: %w", err)
	}
	defer func() { _ = f.Close() }()
	token, err := io.ReadAll(io.LimitReader(f, maxToken))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the token for the coordinator: %w", err)
	case len(token) == maxToken || strings.ContainsFunc(strings.TrimSpace(string(token)), unicode.IsSpace):
		return "", fmt.Errorf("read the token for the coordinator: %s holds something else", path)
	}
	return strings.TrimSpace(string(token)), nil
}

// answer reads the Directive of a response.
func answer(resp *http.Response) (report.Directive, error) {
	if resp.StatusCode != http.StatusOK {
		complaint, _ := io.ReadAll(io.LimitReader(resp.Body, maxComplaint)) // for what it is worth
		return report.Directive{}, &refusal{text: fmt.Sprintf("ask the coordinator: %s: %s", resp.Status,
			printable(string(complaint))), after: resp.Header.Get("Retry-After")}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, report.MaxDirective+1))
	switch {
	case err != nil:
		return report.Directive{}, fmt.Errorf("read the coordinator's answer: %w", err)
	case len(text) > report.MaxDirective:
		return report.Directive{}, fmt.Errorf("read the coordinator's answer: it is longer than %d bytes", report.MaxDirective)
	}
	var d report.Directive
	if err := json.Unmarshal(text, &d); err != nil {
		return report.Directive{}, fmt.Errorf("read the coordinator's answer: %w", err)
	}
	return d, nil
}

// refusal is an answer that is no Directive.
type refusal struct {
	text  string
	after string // Retry-After, as it came
}

func (r *refusal) Error() string { return r.text }

// after is how long the coordinator wants to be left alone; 0 if it does not say.
func after(err error) time.Duration {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return 0
	}
	seconds, _ := strconv.ParseUint(r.after, 10, 16) // the form with a date is not sent
	return time.Duration(seconds) * time.Second
}

// printable is one line of s.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

// encode is r as it is posted.
func encode(r report.NodeReport) ([]byte, error) {
	text, err := fit(r)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	_, err = zip.Write(text)
	if err := errors.Join(err, zip.Close()); err != nil {
		return nil, fmt.Errorf("compress the report: %w", err)
	}
	return out.Bytes(), nil
}
