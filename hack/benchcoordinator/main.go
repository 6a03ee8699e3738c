package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// resultsDir is relative to the repository's root, where make runs.
const resultsDir = "hack/benchcoordinator/results"

// options are the flags.
type options struct {
	nodes   int
	pullers int
	steady  time.Duration
	ramp    time.Duration
	fetch   time.Duration
	// root is the repository, coordinator the program to measure, dir where the cluster's files are.
	root, coordinator, dir string
}

func main() {
	var o options
	var out string
	flag.IntVar(&o.nodes, "nodes", 5000, "how many nodes there are")
	flag.IntVar(&o.pullers, "pullers", 0, "how many of them may fetch at once, cluster.maxConcurrentNodes (default: all)")
	flag.DurationVar(&o.steady, "steady", 3*time.Minute, "how long it is measured while nothing happens")
	flag.DurationVar(&o.ramp, "ramp", 10*time.Second, "in what time all agents begin")
	flag.DurationVar(&o.fetch, "fetch", 3*time.Second, "how long it takes a node to fetch an image")
	flag.StringVar(&o.coordinator, "coordinator", "bin/hotplate-coordinator", "the program to measure")
	flag.StringVar(&out, "results", resultsDir, "where the results are written")
	flag.Parse()
	o.root = "."
	// A reader of our output that goes away must not end us before we have ended what we started.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, out)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "benchcoordinator: %v\n", err)
		os.Exit(1)
	}
}

// run measures, keeps the results and prints them.
func run(ctx context.Context, o options, out string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the cluster needs root: run make bench-coordinator as root")
	}
	if o.dir, err = os.MkdirTemp("", "benchcoordinator"); err != nil {
		return err
	}
	r, err := measure(ctx, o, func(line string) { fmt.Println(line) })
	if err != nil {
		return fmt.Errorf("%w\nLogs are in %s", err, o.dir)
	}
	data, err := r.Encode()
	if err != nil {
		return err
	}
	text := []byte(r.Markdown())
	err = errors.Join(os.MkdirAll(out, 0o755), os.WriteFile(filepath.Join(out, "latest.json"), data, 0o644),
		os.WriteFile(filepath.Join(out, "latest.md"), text, 0o644))
	if err != nil {
		return fmt.Errorf("keep the results: %w", err)
	}
	fmt.Printf("\n%s", text)
	return os.RemoveAll(o.dir)
}
