//go:build e2e

package restart_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// place is a supervised containerd with pods that count, and what hotplate needs there.
type place struct {
	counting
	supervisor *rig.Supervisor
	line       string
	dir        string // of everything; that of containerd's configuration
	bin        string // the directory of containerd's program

	ownPID bool     // hotplate has a PID namespace of its own
	caps   []string // hotplate's capabilities
}

func newPlace(t *testing.T, cfg rig.SupervisorConfig) *place {
	t.Helper()
	cfg.PIDNamespace = true
	supervisor := rigtest.Supervisor(t, cfg)
	s := &place{supervisor: supervisor, line: cfg.Line}
	s.dir = filepath.Dir(s.supervisor.ConfigPath())
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.supervisor.PID()))
	if err != nil {
		t.Fatal(err)
	}
	program, _, _ := strings.Cut(string(command), "\x00")
	s.bin = filepath.Dir(program)
	s.counting = startCounting(t, supervisor)
	s.age()
	return s
}

// start starts hotplate restart, as in a pod with the node's PID namespace and containerd's own program.
func (s *place) start(args ...string) hotplate {
	s.Helper()
	address := s.supervisor.Address()
	mounts := []rig.SandboxMount{
		{Target: "/tmp"}, {Source: s.dir}, {Source: filepath.Dir(address)}, {Source: s.bin, ReadOnly: true},
	}
	for _, dir := range []string{"/lib", "/lib64", "/usr/lib"} { // containerd 1.6 is linked with libraries
		if _, err := os.Stat(dir); err == nil {
			mounts = append(mounts, rig.SandboxMount{Source: dir, ReadOnly: true})
		}
	}
	p, err := s.supervisor.RunSandboxed(s.Context(), rig.SandboxConfig{
		Program: program,
		Argv: append([]string{"/hotplate", "restart", "--output", "json", "--log-level", "info", "--soak", "2s", "--address", address,
			"--hosts-dir", filepath.Join(s.dir, "certs.d"), "--state-dir", filepath.Join(s.dir, "hotplate")}, args...),
		Mounts: mounts, HostPID: !s.ownPID, Caps: s.caps,
	})
	if err != nil {
		s.Fatal(err)
	}
	return hotplate{p, s.T}
}

func (s *place) restart(args ...string) restart.Outcome {
	s.Helper()
	o, _ := s.start(args...).end()
	return o
}

// check ends a row, as that of site does.
func (s *place) check(fault string, o restart.Outcome, want restart.Kind, reason string) {
	s.Helper()
	if o.Kind != want || !strings.Contains(o.Reason, reason) {
		s.Errorf("it ended as %s: %s; want %s with %q", o.Kind, o.Reason, want, reason)
	}
	s.eventually("CRI to work", s.criWorks)
	rows.add(row{group: noSystemd, fault: fault, line: s.line, happened: string(o.Kind) + ": " + short(strings.ReplaceAll(o.Reason, s.dir, "DIR")), pods: s.kept(),
		downtime: s.away(o)})
}

// age waits until containerd has run for so long that it may be restarted.
func (s *place) age() {
	s.Helper()
	s.eventually("containerd to have run for ten seconds", func() bool {
		pid := s.supervisor.PID()
		if pid == 0 {
			return false
		}
		_, age := s.stat(pid)
		return age > 11*time.Second
	})
}

// stat is the parent of a process, and for how long it has run; see proc_pid_stat(5).
func (s *place) stat(pid int) (parent int, age time.Duration) {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	parent, err = strconv.Atoi(string(fields[1]))
	if err != nil {
		s.Fatal(err)
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		s.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		s.Fatal(err)
	}
	return parent, time.Duration(now.Nano()) - time.Duration(ticks)*time.Second/100
}

// shim is the process id of a pod's shim on this machine.
func (s *place) shim(pod *rig.Counter) int {
	s.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.Fatal(err)
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err == nil && bytes.Contains(text, []byte("\x00-id\x00"+pod.PodID+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
			if err != nil {
				s.Fatal(err)
			}
			return pid
		}
	}
	s.Fatalf("pod %s has no shim", pod.Name)
	return 0
}

func (s *place) signal(pid int, sig unix.Signal) {
	s.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		s.Fatal(err)
	}
}

func (s *place) untouched(before int) {
	s.Helper()
	if now := s.supervisor.PID(); now != before {
		s.Errorf("containerd had pid %d and has %d", before, now)
	}
}

// leavesNothing checks that no transaction is left, and nothing beside the configuration.
func (s *place) leavesNothing() {
	s.Helper()
	for _, name := range []string{
		"hotplate/restart/journal.json", "hotplate/restart/marker", "hotplate/restart/backup", "hotplate/restart/candidate", ".hotplate-candidate",
	} {
		if s.has(name) {
			s.Errorf("%s is left", name)
		}
	}
}

func (s *place) has(name string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, name))
	return err == nil
}

func (s *place) read(name string) string {
	s.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func (s *place) write(name, text string) {
	s.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}
