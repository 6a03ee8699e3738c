package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// refusal is an answer that is no Directive.
type refusal struct {
	code  int
	text  string
	after time.Duration
}

func (r *refusal) Error() string { return fmt.Sprintf("%d: %s", r.code, r.text) }

func retryAfter(err error) time.Duration {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.after
	}
	return 0
}

// ask posts a report, and notes how long the answer took.
func (a *agent) ask(ctx context.Context, at view, r report.NodeReport) (report.Directive, error) {
	samples := a.samples.Load()
	if err := a.connect(at); err != nil {
		samples.refuse("no coordinator")
		return report.Directive{}, err
	}
	body, err := pack(r)
	if err != nil {
		return report.Directive{}, err
	}
	began := time.Now()
	d, err := a.post(ctx, body)
	took := time.Since(began)
	refused, answered := errors.AsType[*refusal](err)
	late, network := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		cached := began.Sub(a.reviewed) < tokenTrusted
		if !cached {
			a.reviewed = began.Add(took)
		}
		a.answered.Store(time.Now().UnixNano())
		samples.answered(took, cached)
	case answered:
		samples.refuse(refused.Error())
	case network && late.Timeout() && strings.Contains(err.Error(), "TLS handshake"):
		samples.refuse("handshake timeout")
	case network && late.Timeout():
		samples.refuse("timeout")
	default:
		samples.refuse("no connection")
	}
	return d, err
}

func (a *agent) post(ctx context.Context, body []byte) (d report.Directive, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.at.url+report.ReportPath, bytes.NewReader(body))
	if err != nil {
		return d, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := a.client.Do(req)
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, report.MaxDirective))
	switch {
	case err != nil:
		return d, err
	case resp.StatusCode != http.StatusOK:
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16) // 0 where there is none
		return d, &refusal{code: resp.StatusCode, text: firstWords(string(text)), after: time.Duration(seconds) * time.Second}
	}
	return d, json.Unmarshal(text, &d)
}

// firstWords is what complaints that differ in names only have in common.
func firstWords(text string) string {
	words := bytes.Fields([]byte(text))
	if len(words) > 0 && (string(words[0]) == "node" || string(words[0]) == "ask") { // node NAME reports too often
		words = append(words[:1], words[min(2, len(words)):]...)
	}
	return string(bytes.Join(words[:min(len(words), 8)], []byte(" ")))
}

// connect makes a client for where the coordinator is.
func (a *agent) connect(at view) error {
	if at.trust == nil {
		return errors.New("there is no coordinator yet")
	}
	if a.client != nil && a.at.url == at.url && a.at.trust == at.trust {
		return nil
	}
	a.at, a.reviewed = at, time.Time{} // another one has not seen the token
	trust := at.trust.Clone()
	trust.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	a.client = &http.Client{Timeout: askTimeout, Transport: &http.Transport{DialContext: a.dial, TLSClientConfig: trust,
		TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: askTimeout, DisableKeepAlives: true}}
	return nil
}

// packers are kept, because one takes most of a megabyte.
var packers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// pack is a report as it is posted.
func pack(r report.NodeReport) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	var out bytes.Buffer
	zip := packers.Get().(*gzip.Writer)
	defer packers.Put(zip)
	zip.Reset(&out)
	_, err = zip.Write(text)
	err = errors.Join(err, zip.Close())
	return out.Bytes(), err
}
