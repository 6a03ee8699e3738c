//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopLimit is how long a program may take to end before it is killed, which fails the test.
const stopLimit = 30 * time.Second

// process is a program of ours that runs.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	err    error         // its end; valid once exited is closed
}

// launch starts a program whose output is appended to the file log.
func launch(path string, args, env []string, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	// It must not outlive a test that was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// end sends a signal and returns how the process ended.
func (p *process) end(sig os.Signal) error {
	if p.running() {
		if err := p.cmd.Process.Signal(sig); err != nil {
			return err
		}
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill() // the error below says enough
		<-p.exited
		return fmt.Errorf("it did not end within %s of %s", stopLimit, sig)
	}
}

// commandLine is what everybody on the machine can read of it.
func (p *process) commandLine() string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	if err != nil {
		return strings.Join(p.cmd.Args, " ")
	}
	return strings.ReplaceAll(string(data), "\x00", " ")
}
