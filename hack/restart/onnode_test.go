//go:build e2e

package restart_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// read reads a file of the node.
func (s *site) read(path string) string {
	s.Helper()
	data, err := os.ReadFile(s.node.Path(path))
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func (s *site) write(path, text string) {
	s.Helper()
	file := s.node.Path(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// exec runs a program on the node.
func (s *site) exec(argv ...string) string {
	s.Helper()
	out, err := s.node.Exec(s.Context(), argv...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// kill sends a signal to a process by its pid on the node.
func (s *site) kill(signal string, pid int) {
	s.Helper()
	s.exec("/bin/kill", "-"+signal, strconv.Itoa(pid))
}

// daemonPID is containerd's, as systemd has it.
func (s *site) daemonPID() string {
	s.Helper()
	return s.exec("systemctl", "show", "--value", "-p", "MainPID", "containerd")
}

// untouched checks that the daemon was not restarted.
func (s *site) untouched(before string) {
	s.Helper()
	if now := s.daemonPID(); now != before {
		s.Errorf("containerd had pid %s and has %s", before, now)
	}
}

// leavesNothing checks that no transaction, marker or rescue is left.
func (s *site) leavesNothing() {
	s.Helper()
	for _, name := range []string{"journal.json", "marker", "marker.restored", "backup", "candidate"} {
		if _, err := os.Lstat(s.node.Path("/var/lib/hotplate/restart/" + name)); !errors.Is(err, fs.ErrNotExist) {
			s.Errorf("%s is left: %v", name, err)
		}
	}
	s.noRescue()
}

// rescues are the timers and services of rescues that systemd has, a line each. suffix is .timer, .service or empty for both.
func (s *site) rescues(suffix string) string {
	s.Helper()
	return s.exec("systemctl", "list-units", "--all", "--no-legend", "hotplate-rescue-*"+suffix)
}

func (s *site) noRescue() {
	s.Helper()
	if units := s.rescues(""); units != "" {
		s.Errorf("systemd still has %s", units)
	}
}

// putBack checks that containerd's configuration is what it was.
func (s *site) putBack(old string) {
	s.Helper()
	if got := s.read("/etc/containerd/config.toml"); got != old {
		s.Errorf("the configuration was not put back byte for byte:\n%s", got)
	}
}
