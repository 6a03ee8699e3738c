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
	name := "latest"
	if ctx.Err() != nil {
		name, err = "interrupted", errors.New("interrupted; the results of the last whole run stay")
	}
	if len(b.report.Runs) == 0 {
		return err
	}
	if err != nil {
		b.report.Notes = append(b.report.Notes, "It ended early: "+err.Error())
	}
	return errors.Join(err, write(b.report, resultsDir, name))
}

// write keeps the report in files of this name and prints its ratios.
func write(r *report.Report, dir, name string) error {
	r.Summarise()
	data, err := r.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep the results: %w", err)
	}
	for suffix, data := range map[string][]byte{
		".json": data, ".md": []byte(report.Markdown(r, name+".svg")), ".svg": []byte(report.SVG(r)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), data, 0o644); err != nil {
			return fmt.Errorf("keep the results: %w", err)
		}
	}
	fmt.Printf("\nResults are in %s.\n\n%s", filepath.Join(dir, name+".md"), report.Ratios(r))
	return nil
}
