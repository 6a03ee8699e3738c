package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// maxAttempts is how often an order is given.
const maxAttempts = 5

// order asks for the image until it is pulled, ctx ends or it has failed too often. It returns what hotplate used.
func (n *node) order(ctx context.Context, c contestant, hotplate, ref string) (used proc.Counters, attempts int, err error) {
	for attempts = 1; ; attempts++ {
		if c.hotplate() {
			var once proc.Counters
			once, err = n.runHotplate(ctx, hotplate, c.flags, ref)
			used.CPUSeconds += once.CPUSeconds
			used.Written += once.Written
			used.PeakRSS = max(used.PeakRSS, once.PeakRSS)
		} else {
			_, err = n.cri.PullImage(ctx, ref, nil)
		}
		if err == nil || ctx.Err() != nil || attempts == maxAttempts {
			return used, attempts, err
		}
	}
}

// runHotplate runs one pull to its end.
func (n *node) runHotplate(ctx context.Context, program string, flags []string, ref string) (proc.Counters, error) {
	args := append([]string{"pull", "--address", n.daemon.Address(), "--hosts-dir", n.hosts, "--output", "json"}, flags...)
	used, err := runCounted(ctx, exec.Command(program, append(args, ref)...))
	if err != nil {
		return used, fmt.Errorf("hotplate: %w", err)
	}
	return used, nil
}

// runCounted runs a program to its end, or kills it when ctx ends, and returns what it used. The error of a program that
// fails has the last line that it wrote.
func runCounted(ctx context.Context, cmd *exec.Cmd) (used proc.Counters, err error) {
	var out lastLines
	cmd.Stdout, cmd.Stderr = &out, &out
	// In a group of its own a Ctrl-C reaches only us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return used, err
	}
	pid := cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() }) // it may have ended by itself
	defer stop()
	peak := watchPeak(pid)
	waitErr := proc.AwaitEnd(pid)
	highest := peak()
	if waitErr == nil {
		used, waitErr = proc.Host().Process(pid)
	}
	used.PeakRSS = highest
	if err := cmd.Wait(); err != nil {
		return used, fmt.Errorf("%w: %s", err, out.String())
	}
	return used, waitErr
}

// watchPeak looks at a process's peak memory, which the kernel forgets at its end, until the returned function is called.
// The peak never goes down, so only growth in the last moment before the end can be missed.
func watchPeak(pid int) (peak func() int64) {
	var highest int64
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			c, err := proc.Host().Process(pid)
			if err == nil {
				highest = max(highest, c.PeakRSS)
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() int64 {
		close(done)
		running.Wait()
		return highest
	}
}

// lastLines keeps the end of what is written to it. The two streams of a process write one at a time.
type lastLines struct{ bytes.Buffer }

func (l *lastLines) Write(p []byte) (int, error) {
	const most = 64 << 10
	if l.Len() > most {
		l.Next(l.Len() - most/2)
	}
	return l.Buffer.Write(p)
}

// String is the last line.
func (l *lastLines) String() string {
	s := strings.TrimSpace(l.Buffer.String())
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// failure is the reason that stands in the report.
func failure(ctx context.Context, limit time.Duration, err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("not Ready after %s", limit)
	}
	return err.Error()
}

// process is what the report says of counters.
func process(c proc.Counters) report.Process {
	return report.Process{PeakRSS: c.PeakRSS, CPUSeconds: c.CPUSeconds, Written: c.Written}
}
