package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// sweeps counts calls, and does one more thing in each.
type sweeps struct {
	n      int
	wanted []prefetch.Image
	do     func() error
}

func (s *sweeps) Sweep(_ context.Context, wanted []prefetch.Image) error {
	s.n++
	s.wanted = wanted
	if s.do != nil {
		return s.do()
	}
	return nil
}

func TestOnlyAPullThatIsAloneSweeps(t *testing.T) {
	dir, log := filepath.Join(t.TempDir(), "state"), slog.New(slog.DiscardHandler)
	want := []prefetch.Image{{Ref: "registry.example.com/a:v1"}}
	first, second, third := &sweeps{}, &sweeps{}, &sweeps{}
	leave, err := enter(t.Context(), dir, first, want, log)
	if err != nil || first.n != 1 || len(first.wanted) != 1 {
		t.Fatalf("the first swept %d times, for %v: %v", first.n, first.wanted, err)
	}
	leaveSecond, err := enter(t.Context(), dir, second, want, log)
	if err != nil || second.n != 0 {
		t.Fatalf("the second swept %d times beside another: %v", second.n, err)
	}
	if err := errors.Join(leave(), leaveSecond()); err != nil {
		t.Fatal(err)
	}
	if leave, err = enter(t.Context(), dir, third, want, log); err != nil || third.n != 1 {
		t.Fatalf("the third swept %d times: %v", third.n, err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAPullWaitsForTheSweepOfAnother(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	entered := make(chan error, 1)
	first := &sweeps{do: func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 4*lockPoll)
		defer cancel()
		if _, err := enter(ctx, dir, &sweeps{}, nil, log); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a pull began in the middle of a sweep: %v", err)
		}
		go func() {
			leave, err := enter(t.Context(), dir, &sweeps{}, nil, log)
			if err == nil {
				err = leave()
			}
			entered <- err
		}()
		return nil
	}}
	leave, err := enter(t.Context(), dir, first, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-entered, leave()); err != nil {
		t.Fatal(err)
	}
}

func TestASweepThatFailsOnlyWarns(t *testing.T) {
	var out strings.Builder
	s := &sweeps{do: func() error { return errors.New("no room") }}
	leave, err := enter(t.Context(), t.TempDir(), s, nil, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil || !strings.Contains(out.String(), "no room") {
		t.Fatalf("%v; it logs:\n%s", err, out.String())
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAStateDirectoryThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enter(t.Context(), file, &sweeps{}, nil, nil); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("got %v", err)
	}
}
