package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

const (
	// maxLines is how many lines of client-go's own are logged in a minute at each level; how many more there were is said in
	// the next one.
	maxLines = 6
	// maxText bounds a message or a value in such a line, in bytes.
	maxText = 512
)

// RouteLogs sends all that client-go says of itself to log, bounded: errors as warnings, for it tries again, and the rest as
// debug lines. klog has one logger for the whole process, so this is for programs, once, before anything else.
func RouteLogs(log *slog.Logger) { klog.SetSlogLogger(slog.New(newBounded(log.Handler()))) }

// clientLogger is the logger for parts of client-go that take one.
func clientLogger(log *slog.Logger) klog.Logger {
	return logr.FromSlogHandler(newBounded(log.Handler()))
}

// bounded passes on some lines, and cuts them.
type bounded struct {
	next  slog.Handler
	quota map[slog.Level]*quota // by level, so that details do not take the place of errors
}

// quota is what all handlers share that were made of one.
type quota struct {
	mu      sync.Mutex
	since   time.Time // guarded by mu, as the rest
	said    int
	leftOut int
}

func newBounded(next slog.Handler) *bounded {
	return &bounded{next: next, quota: map[slog.Level]*quota{slog.LevelWarn: new(quota), slog.LevelDebug: new(quota)}}
}

var _ slog.Handler = (*bounded)(nil)

// level is that of the agent's log for one of client-go.
func level(theirs slog.Level) slog.Level {
	if theirs >= slog.LevelError {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled implements slog.Handler.
func (b *bounded) Enabled(ctx context.Context, theirs slog.Level) bool {
	return theirs >= slog.LevelDebug && b.next.Enabled(ctx, level(theirs))
}

// Handle implements slog.Handler.
func (b *bounded) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := b.quota[level(r.Level)].take(time.Now())
	if !ok {
		return nil
	}
	out := slog.NewRecord(r.Time, level(r.Level), cut(r.Message), 0)
	out.AddAttrs(slog.String("from", "client-go"))
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(slog.String(a.Key, cut(a.Value.Resolve().String())))
		return true
	})
	if leftOut > 0 {
		out.AddAttrs(slog.Int("leftOut", leftOut))
	}
	return b.next.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (b *bounded) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &bounded{next: b.next.WithAttrs(attrs), quota: b.quota}
}

// WithGroup implements slog.Handler.
func (b *bounded) WithGroup(name string) slog.Handler {
	return &bounded{next: b.next.WithGroup(name), quota: b.quota}
}

// take reports whether a line may be logged now, and how many could not be before it.
func (q *quota) take(now time.Time) (leftOut int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.since) >= time.Minute {
		q.since, q.said = now, 0
	}
	if q.said >= maxLines {
		q.leftOut++
		return 0, false
	}
	q.said++
	leftOut, q.leftOut = q.leftOut, 0
	return leftOut, true
}

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return s[:maxText] + "…"
}
