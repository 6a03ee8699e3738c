package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// nodesDir is where every daemon has its directory, one after the other.
func (b *bench) nodesDir() string { return filepath.Join(b.dir, "nodes") }

// coldNode starts a daemon for the contestant on an empty directory and an empty page cache, but for the image's blobs in
// the registry.
func (b *bench) coldNode(ctx context.Context, img stored, l link, config string) (*node, error) {
	if err := os.RemoveAll(b.nodesDir()); err != nil {
		return nil, fmt.Errorf("remove the last daemon: %w", err)
	}
	if err := os.Mkdir(b.nodesDir(), 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the daemon: %w", err)
	}
	spread(b.nodesDir())
	b.report.Machine.CachesDropped = settle()
	if err := img.warm(ctx); err != nil {
		return nil, err
	}
	n, err := startNode(ctx, filepath.Join(b.nodesDir(), rand.Text()[:8]), config, l.Host(), b.lib.registry.Host())
	if err != nil {
		return nil, err
	}
	b.report.Machine.Containerd = n.daemon.Version()
	if err := n.checkCold(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// timed is one pull of a round. A pull that fails is a result; an error is one of the benchmark itself.
func (b *bench) timed(ctx context.Context, img stored, l link, linkName string, c contestant, round int) (report.Run, error) {
	run := report.Run{Image: img.spec.name, Link: linkName, Contestant: c.name, Round: round}
	n, err := b.coldNode(ctx, img, l, c.config)
	if err != nil {
		return run, err
	}
	ended := false
	defer func() {
		if !ended {
			_ = n.Close() // another error is on its way
		}
	}()
	if err := l.Begin(uint64(round)); err != nil {
		return run, err
	}
	if err := b.count(ctx, n, img, c, &run); err != nil {
		return run, err
	}
	if run.ContentBytes, err = n.contentBytes(); err != nil {
		return run, fmt.Errorf("measure the content store: %w", err)
	}
	// Only when the daemon has gone are its connections closed.
	ended = true
	if err := n.Close(); err != nil {
		return run, err
	}
	run.Fetched, run.Requests, err = l.Used(ctx)
	return run, err
}

// count gives the order and fills in what it took.
func (b *bench) count(ctx context.Context, n *node, img stored, c contestant, run *report.Run) error {
	pid := n.daemon.PID()
	unix.Sync()
	_ = proc.ResetPeak(pid) // where the kernel cannot, the peak is that since the daemon's start
	before, err := b.proc.Process(pid)
	if err != nil {
		return err
	}
	idle, err := b.usage()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	ref := modelHost + "/" + repository + ":" + img.spec.tag()
	start := time.Now()
	used, attempts, orderErr := n.order(limited, c, b.hotplate, ref)
	run.Seconds, run.Attempts, run.Hotplate = time.Since(start).Seconds(), attempts, process(used)
	after, err := b.proc.Process(pid)
	busy, usageErr := b.usage()
	if err := errors.Join(err, usageErr, ctx.Err()); err != nil {
		return err
	}
	run.CoresBusy = (busy.cpu - idle.cpu) / run.Seconds / float64(runtime.NumCPU())
	run.DiskBusy = -1
	if busy.disk.Written >= 0 {
		run.DiskBusy = (busy.disk.Busy - idle.disk.Busy).Seconds() / run.Seconds
	}
	run.Containerd = process(after.Sub(before))
	if orderErr == nil {
		orderErr = n.checkReady(limited, ref, img.digest)
	}
	if run.Failure = failure(limited, b.limit, orderErr); run.Failure != "" {
		run.Seconds = b.limit.Seconds() // it was not Ready then either
	}
	unix.Sync()
	all, err := b.proc.Disk(b.device)
	run.DiskWritten = all.Written - idle.disk.Written
	return err
}

// usage is what the machine has done since its start.
type usage struct {
	cpu  float64 // seconds of all cores
	disk proc.DiskCounters
}

func (b *bench) usage() (u usage, err error) {
	if u.cpu, err = b.proc.CPUSeconds(); err != nil {
		return u, err
	}
	u.disk, err = b.proc.Disk(b.device)
	return u, err
}
