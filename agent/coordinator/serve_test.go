package coordinator

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// nodeOfToken believes that a token is the name of its node.
type nodeOfToken struct{}

func (nodeOfToken) Node(_ context.Context, _, token string) (string, error) {
	switch token {
	case "stranger":
		return "", fmt.Errorf("%w: a stranger", ErrRefused)
	case "nobody-answers":
		return "", errors.New("the API server is away")
	}
	return token, nil
}

func testHandler(answer func(context.Context, string, report.NodeReport) (report.Directive, error)) *handler {
	return newHandler(nodeOfToken{}, answer, func(int, time.Duration) {}, slog.New(slog.DiscardHandler))
}

func packed(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func TestReports(t *testing.T) {
	said := func(_ context.Context, node string, r report.NodeReport) (report.Directive, error) {
		if node == "unknown" {
			return report.Directive{}, errors.New("node unknown is not known (yet)")
		}
		return report.Directive{ConfigHash: node + " " + r.Config.Hash}, nil
	}
	of := func(node string) []byte {
		return fmt.Appendf(nil, `{"node":%q,"config":{"hash":"h1"},"a field of tomorrow":1}`, node)
	}
	good := of("gpu-1")
	bomb := packed([]byte(`{"node":"` + strings.Repeat("x", report.MaxReport) + `"}`))
	for name, c := range map[string]struct {
		method, auth, encoding string
		body                   []byte
		code                   int
		says                   string
		again                  bool // it says when to try again
	}{
		"plain":                   {auth: "Bearer gpu-1", body: good, code: 200, says: "gpu-1 h1"},
		"packed":                  {auth: "Bearer gpu-1", encoding: "gzip", body: packed(good), code: 200, says: "gpu-1 h1"},
		"not posted":              {method: "GET", auth: "Bearer gpu-1", body: good, code: 405},
		"without a token":         {body: good, code: 401, says: "no bearer token"},
		"a password":              {auth: "Basic gpu-1", body: good, code: 401},
		"a stranger":              {auth: "Bearer stranger", body: good, code: 401, says: "a stranger"},
		"nobody can say":          {auth: "Bearer nobody-answers", body: good, code: 503, again: true},
		"another node":            {auth: "Bearer gpu-2", body: good, code: 403, says: `of node gpu-2, and the report of node "gpu-1"`},
		"a node nobody knows":     {auth: "Bearer unknown", body: of("unknown"), code: 503, says: "not known"},
		"not JSON":                {auth: "Bearer gpu-1", body: []byte("{"), code: 400},
		"not gzip":                {auth: "Bearer gpu-1", encoding: "gzip", body: good, code: 400},
		"cut off":                 {auth: "Bearer gpu-1", encoding: "gzip", body: packed(good)[:20], code: 400},
		"packed in another way":   {auth: "Bearer gpu-1", encoding: "br", body: good, code: 415},
		"too large":               {auth: "Bearer gpu-1", body: append(good, bytes.Repeat([]byte(" "), report.MaxReport)...), code: 400},
		"too large when unpacked": {auth: "Bearer gpu-1", encoding: "gzip", body: bomb, code: 413, says: "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			method := http.MethodPost
			if c.method != "" {
				method = c.method
			}
			req := httptest.NewRequest(method, report.ReportPath, bytes.NewReader(c.body))
			req.Header.Set("Authorization", c.auth)
			req.Header.Set("Content-Encoding", c.encoding)
			w := httptest.NewRecorder()
			testHandler(said).ServeHTTP(w, req)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, c.code, c.says)
			}
			if again := w.Header().Get("Retry-After"); (again != "") != c.again {
				t.Errorf("Retry-After is %q", again)
			}
			var d report.Directive
			if err := json.Unmarshal(w.Body.Bytes(), &d); w.Code == 200 && err != nil {
				t.Error(err)
			}
		})
	}
}

// TestANodeThatReportsTooOften is told to wait, and keeps nobody else from reporting.
func TestANodeThatReportsTooOften(t *testing.T) {
	h := testHandler(func(context.Context, string, report.NodeReport) (report.Directive, error) {
		return report.Directive{}, nil
	})
	post := func(node string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, report.ReportPath, strings.NewReader(fmt.Sprintf(`{"node":%q}`, node)))
		req.Header.Set("Authorization", "Bearer "+node)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
	refused := 0
	for range reportBurst + 20 {
		if w := post("loud"); w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "1" {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("refused %d times", refused)
	}
	if w := post("quiet"); w.Code != 200 {
		t.Errorf("another node: %d", w.Code)
	}
	h.forget("loud")
	if w := post("loud"); w.Code != 200 {
		t.Errorf("a new machine: %d", w.Code)
	}
}

// TestPackedReportsAreReadOneAfterTheOther: what unpacks them is used again, also after a report that cannot be unpacked.
func TestPackedReportsAreReadOneAfterTheOther(t *testing.T) {
	h := testHandler(func(_ context.Context, node string, r report.NodeReport) (report.Directive, error) {
		return report.Directive{ConfigHash: node + " " + r.Config.Hash}, nil
	})
	for i := range 50 {
		node := fmt.Sprintf("gpu-%d", i)
		good := packed(fmt.Appendf(nil, `{"node":%q,"config":{"hash":"h%d"}}`, node, i))
		for _, c := range []struct {
			body []byte
			code int
			says string
		}{{[]byte("no gzip"), 400, "read report"}, {good[:len(good)/2], 400, "read report"}, {good, 200, fmt.Sprintf("%s h%d", node, i)}} {
			req := httptest.NewRequest(http.MethodPost, report.ReportPath, bytes.NewReader(c.body))
			req.Header.Set("Authorization", "Bearer "+node)
			req.Header.Set("Content-Encoding", "gzip")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%s: %d %s, want %d with %q", node, w.Code, w.Body, c.code, c.says)
			}
		}
	}
}
