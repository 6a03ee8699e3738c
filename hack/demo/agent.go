package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	pollInterval = 50 * time.Millisecond
	// waitLimit bounds every wait for the agent, but for the image itself.
	waitLimit = time.Minute
	// stopLimit is how long the agent may take to end.
	stopLimit = 10 * time.Second
)

// agentProcess is the running agent.
type agentProcess struct {
	d       *demo
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when it has ended
	err     error         // its end; valid once exited is closed
}

func startAgent(d *demo) (*agentProcess, error) {
	logFile, err := os.Create(d.path("agent.log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command("bin/hotplate-agent", "--config", d.path("etc", "config.yaml"), "--address",
		d.containerd.Address(), "--hosts-dir", d.hostsDir(), "--state-dir", d.path("state"), "--node-name", "gpu-1",
		"--listen", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	a := &agentProcess{d: d, cmd: cmd, started: time.Now(), exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent (make build first): %w", err)
	}
	go func() {
		a.err = cmd.Wait()
		close(a.exited)
	}()
	fmt.Printf("\n%s\n(its log: %s)\n", strings.Join(cmd.Args, " "), logFile.Name())
	return a, nil
}

// stop ends the agent and waits for it. It may be called again.
func (a *agentProcess) stop() error {
	select {
	case <-a.exited:
		return a.err
	default:
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	select {
	case <-a.exited:
		return a.err
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("the agent did not end within %s of SIGTERM", stopLimit), a.cmd.Process.Kill())
	}
}

// status asks the agent through the CLI, as a person would.
func (a *agentProcess) status(ctx context.Context) (report.NodeReport, error) {
	var r report.NodeReport
	out, err := a.d.program(ctx, "hotplate", "status", "--state-dir", a.d.path("state"), "--output", "json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// until waits until the agent's report is as cond wants it.
func (a *agentProcess) until(ctx context.Context, what string, cond func(report.NodeReport) bool) (
	r report.NodeReport, err error) {
	err = waitFor(ctx, what, func() (bool, error) {
		select {
		case <-a.exited:
			return false, fmt.Errorf("the agent has ended: %w; see its log", a.err)
		default:
		}
		var serr error
		r, serr = a.status(ctx)
		return serr == nil && cond(r), nil // the socket comes a moment after the start
	})
	if err != nil {
		err = fmt.Errorf("%w; the agent says:\n%s", err, r.Text(time.Now()))
	}
	return r, err
}

// watchLayers shows each layer until the image is Ready.
func (a *agentProcess) watchLayers(ctx context.Context) (report.NodeReport, error) {
	show := newLayers(ctx)
	defer show.end()
	for {
		r, err := a.until(ctx, "the agent's report", func(r report.NodeReport) bool { return len(r.Images) == 1 })
		if err != nil {
			return r, err
		}
		img := r.Images[0]
		show.update(img.Layers)
		switch {
		case img.Phase == report.ImageFailed:
			return r, fmt.Errorf("the image failed: %s", img.Message)
		case r.Ready:
			show.full()
			return r, nil
		}
		if err := pause(ctx); err != nil {
			return r, err
		}
	}
}

// waitFor polls cond until it holds, fails, or waitLimit is over.
func waitFor(ctx context.Context, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollInterval):
		return nil
	}
}

// program runs one of our programs and returns its output.
func (d *demo) program(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "bin/"+name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, args[0], err, out)
	}
	return string(out), nil
}
