package coordinator

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// reportRate and reportBurst bound how often one node may report, a second.
	reportRate  = 1
	reportBurst = 5
	// maxAtOnce bounds how many reports are read at once, and with report.MaxReport what they take of the memory.
	maxAtOnce = 32
	// unknownRetry is when a node may try again whose token nobody can be asked about now, and up to twice as much more, so that
	// thousands do not come back in step.
	unknownRetry = 5 * time.Second
	// maxRead is how long the body of a report may take, once there is a place for it.
	maxRead = 5 * time.Second
	// toldRate and toldBurst bound how often the log tells of refused reports, a second.
	toldRate, toldBurst = 1, 10
	// maxDrain is how much is read of a report that is refused, in bytes.
	maxDrain = 64 << 10
	// maxWait is how long a report waits for one of those places.
	maxWait = 10 * time.Second
)

// errNotLeading is what a replica says that agents should not have asked.
var errNotLeading = errors.New("this replica does not lead")

// authenticator tells of which node a token is. *Authenticator is one.
type authenticator interface {
	Node(ctx context.Context, source, token string) (string, error)
}

// handler answers reports.
type handler struct {
	auth   authenticator
	answer func(ctx context.Context, node string, r report.NodeReport) (report.Directive, error)
	seen   func(code int, took time.Duration)
	log    *slog.Logger

	told   *rate.Limiter // of what is said of refused reports
	places places        // of reports that are being read
	packed sync.Pool     // of *gzip.Reader, each of which takes 40 KiB

	mu     sync.Mutex
	limits map[string]*rate.Limiter // by node; guarded by mu
	reads  map[string]bool          // the nodes whose report is being read; guarded by mu
}

func newHandler(auth authenticator, answer func(context.Context, string, report.NodeReport) (report.Directive, error),
	seen func(int, time.Duration), log *slog.Logger) *handler {
	return &handler{auth: auth, answer: answer, seen: seen, log: log, told: rate.NewLimiter(toldRate, toldBurst),
		places: make(places, maxAtOnce), limits: map[string]*rate.Limiter{}, reads: map[string]bool{}}
}

// statusError is an error with the code that it is told by.
type statusError struct {
	code  int
	retry time.Duration
	error
}

func (e *statusError) Unwrap() error { return e.error }

func fail(code int, err error) error { return &statusError{code: code, error: err} }

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	began := time.Now()
	d, err := h.serve(w, req)
	code := http.StatusOK
	if err != nil {
		code = http.StatusInternalServerError
		if is := (*statusError)(nil); errors.As(err, &is) {
			code = is.code
			if is.retry > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(int(is.retry.Seconds())))
			}
		}
		// The connection is closed: what is not read of the body would take the answer along.
		_, _ = io.CopyN(io.Discard, req.Body, maxDrain)
		level := slog.LevelDebug
		if (code == http.StatusUnauthorized || code == http.StatusForbidden) && h.told.Allow() {
			level = slog.LevelWarn // somebody is not who they say they are
		}
		h.log.Log(req.Context(), level, "report refused", "from", req.RemoteAddr, "code", code, "err", err)
		http.Error(w, err.Error(), code)
	} else {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d) // the agent has gone away
	}
	h.seen(code, time.Since(began))
}

func (h *handler) serve(w http.ResponseWriter, req *http.Request) (report.Directive, error) {
	var none report.Directive
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return none, fail(http.StatusMethodNotAllowed, errors.New("reports are posted"))
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return none, fail(http.StatusUnauthorized, fmt.Errorf("%w: no bearer token", ErrRefused))
	}
	source, _, _ := net.SplitHostPort(req.RemoteAddr) // net/http writes it so
	node, err := h.auth.Node(req.Context(), source, token)
	switch {
	case errors.Is(err, ErrRefused):
		return none, fail(http.StatusUnauthorized, err)
	case err != nil:
		return none, &statusError{http.StatusServiceUnavailable, unknownRetry + rand.N(2*unknownRetry), err}
	}
	if !h.limit(node).Allow() {
		return none, &statusError{http.StatusTooManyRequests, time.Second, fmt.Errorf("node %s reports too often", node)}
	}
	r, err := h.readOne(w, req, node)
	if err == nil && r.Node != node {
		err = fail(http.StatusForbidden, fmt.Errorf("the token is of node %s, and the report of node %.253q", node, r.Node))
	}
	if err != nil {
		return none, err
	}
	d, err := h.answer(req.Context(), node, r)
	if err != nil {
		return none, fail(http.StatusServiceUnavailable, err)
	}
	return d, nil
}

// readOne reads a report of a node, one at a time: who sends slowly takes one place, and not all of them.
func (h *handler) readOne(w http.ResponseWriter, req *http.Request, node string) (report.NodeReport, error) {
	if !h.begin(node) {
		return report.NodeReport{}, &statusError{http.StatusTooManyRequests, time.Second, fmt.Errorf("another report of node %s is being read", node)}
	}
	defer h.end(node)
	return h.read(w, req)
}

func (h *handler) begin(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reads[node] {
		return false
	}
	h.reads[node] = true
	return true
}

func (h *handler) end(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.reads, node)
}

// read reads a report, which is small even when it is packed: what unpacks to more is not read to its end.
func (h *handler) read(w http.ResponseWriter, req *http.Request) (r report.NodeReport, err error) {
	leave, ok := h.places.take(req.Context(), maxWait)
	if !ok {
		return r, &statusError{http.StatusServiceUnavailable, maxWait, errors.New("too many reports at once")}
	}
	defer leave()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(maxRead)) // a recorder in a test has none
	var body io.Reader = http.MaxBytesReader(w, req.Body, report.MaxReport)
	switch enc := req.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		packed, ok := h.packed.Get().(*gzip.Reader)
		if !ok {
			packed = new(gzip.Reader)
		}
		defer h.packed.Put(packed)
		if err := packed.Reset(body); err != nil {
			return r, fail(http.StatusBadRequest, fmt.Errorf("read report: %w", err))
		}
		body = packed
	default:
		return r, fail(http.StatusUnsupportedMediaType, fmt.Errorf("read report: encoding %.20q is not known; use gzip", enc))
	}
	data, err := io.ReadAll(io.LimitReader(body, report.MaxReport+1))
	switch {
	case err != nil:
		return r, fail(http.StatusBadRequest, fmt.Errorf("read report: %w", err))
	case len(data) > report.MaxReport:
		return r, fail(http.StatusRequestEntityTooLarge, fmt.Errorf("read report: it has more than %d bytes", report.MaxReport))
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fail(http.StatusBadRequest, fmt.Errorf("read report: %w", err))
	}
	bound(&r)
	return r, nil
}

// limit is a node's own. There are as many as there are nodes whose tokens the API server has vouched for.
func (h *handler) limit(node string) *rate.Limiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.limits[node]
	if l == nil {
		l = rate.NewLimiter(reportRate, reportBurst)
		h.limits[node] = l
	}
	return l
}

// forget drops what is kept of a node that is gone.
func (h *handler) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.limits, node)
}
