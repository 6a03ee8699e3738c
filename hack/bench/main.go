package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// resultsDir is relative to the repository's root, where make runs.
const resultsDir = "hack/bench/results"

func main() {
	// A reader of our output that goes away must not end us before we have ended what we started.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	o, err := readOptions(os.Getenv)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root: run make bench as root")
	}
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	err = b.measure(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted; the results of before stay")
	}
	if len(b.report.Runs) == 0 {
		return err
	}
	if err != nil {
		b.report.Notes = append(b.report.Notes, "It ended early: "+err.Error())
	}
	return errors.Join(err, write(b.report, resultsDir))
}

// write keeps the report and prints its ratios.
func write(r *report.Report, dir string) error {
	r.Summarise()
	data, err := r.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep the results: %w", err)
	}
	for name, data := range map[string][]byte{
		"latest.json": data, "latest.md": []byte(report.Markdown(r)), "latest.svg": []byte(report.SVG(r)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("keep the results: %w", err)
		}
	}
	fmt.Printf("\nResults are in %s.\n\n%s", dir, report.Ratios(r))
	return nil
}
