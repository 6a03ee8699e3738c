package supervised

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const rest = " S 41 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1000 10"
	for _, name := range []string{"(containerd)", "(a b)", "(x) R 7 (y)", "())"} {
		parent, start, err := parseStat([]byte("42 " + name + rest + "\n"))
		if err != nil || parent != 41 || start != 123456 {
			t.Errorf("%s: parent %d, start %d, %v", name, parent, start, err)
		}
	}
	for _, bad := range []string{"", "42 (containerd", "42 (containerd) S 41", "42 (containerd) S x 40 40 0 -1 1 1 2 3 4 5 6 7 8 20 0 9 0 1"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                    nil,
		"containerd\x00":                      {"containerd"},
		"/usr/bin/containerd\x00-c\x00/x\x00": {"/usr/bin/containerd", "-c", "/x"},
		"a\x00\x00b c\x00":                    {"a", "", "b c"},
		"cut\x00off":                          {"cut", "off"},
	} {
		if diff := cmp.Diff(want, parseCmdline([]byte(line))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestParseFdinfo(t *testing.T) {
	for info, want := range map[string]int{
		"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9\nPid:\t42\nNSpid:\t42\t7\n": 42,
		"Pid:\t0\n": 0, "Pid:\t-1\nNSpid:\t-1\n": -1,
	} {
		if pid, err := parseFdinfo([]byte(info)); err != nil || pid != want {
			t.Errorf("%q: %d, %v", info, pid, err)
		}
	}
	if _, err := parseFdinfo([]byte("pos:\t0\n")); err == nil {
		t.Error("a descriptor of no process is taken")
	}
}

func TestParseNSpid(t *testing.T) {
	for status, want := range map[string]int{
		"Name:\tx\nNStgid:\t42\nNSpid:\t42\nNSpgid:\t1\n": 42, "NSpid:\t42\t7\t1\n": 1,
	} {
		if pid, err := parseNSpid([]byte(status)); err != nil || pid != want {
			t.Errorf("%q: %d, %v", status, pid, err)
		}
	}
	if _, err := parseNSpid([]byte("Name:\tNSpid:\n")); err == nil {
		t.Error("a status without NSpid is taken")
	}
}

func open(t *testing.T, pid int) *process {
	t.Helper()
	var p *process
	// In the middle of its exec a process has no command line, as one that has ended.
	eventually(t, "a process to have begun", func() bool {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		p, err = openProcess(fd)
		if err != nil && !errors.Is(err, errEnded) {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Cleanup(p.close)
	return p
}

func TestProcess(t *testing.T) {
	before := ticks()
	cmd := start(t, command(named(t, "containerd"), "hangs", ""))
	eventually(t, "it to be containerd", func() bool {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		return err == nil && string(comm) == "containerd\n"
	})
	p := open(t, cmd.Process.Pid)
	if p.pid != cmd.Process.Pid || p.parent != os.Getpid() || p.comm != "containerd" || p.binary() != argv[0] {
		t.Errorf("it is %+v, of %s", p, p.binary())
	}
	if diff := cmp.Diff(argv, p.argv); diff != "" {
		t.Errorf("command line (-want +got):\n%s", diff)
	}
	if p.start < before || p.start > ticks() {
		t.Errorf("it was started at %d, not between %d and %d", p.start, before, ticks())
	}
	if again := open(t, cmd.Process.Pid); again.invocation("boot") != p.invocation("boot") || p.invocation("boot") == p.invocation("other") {
		t.Error("an invocation is not the same for the same process, or the same for two boots")
	}
}

// A program that was started by its name is found by the link of the kernel's.
func TestBinaryWithoutPath(t *testing.T) {
	p := open(t, os.Getpid())
	p.argv = []string{"containerd"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.binary() != self {
		t.Errorf("it is %s, and not %s", p.binary(), self)
	}
}

func TestProcessThatEnded(t *testing.T) {
	cmd := start(t, exec.Command("/bin/sleep", "1000"))
	p := open(t, cmd.Process.Pid)
	again, err := unix.Dup(p.fd)
	if err != nil {
		t.Fatal(err)
	}
	if !alive(p.fd) {
		t.Fatal("it is not said to live")
	}
	end(cmd)
	if alive(p.fd) {
		t.Error("it is said to live")
	}
	if err := p.terminate(); err != nil {
		t.Errorf("to tell it to end is an error: %v", err)
	}
	if _, err := openProcess(again); !errors.Is(err, errEnded) {
		t.Errorf("to open it is %v", err)
	}
}

// A process that ends has no command line any more, some time before it counts as ended. It must not be remembered as a daemon
// that was started without one. A kernel's thread is such a process that stays.
func TestAProcessWithoutACommandLineHasEnded(t *testing.T) {
	line, err := readProc("2", "cmdline")
	if err != nil || len(line) > 0 {
		t.Skipf("process 2 is no thread of the kernel's here: %v", err)
	}
	fd, err := unix.PidfdOpen(2, 0)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := openProcess(fd); !errors.Is(err, errEnded) {
		t.Errorf("%v, %v", p, err)
	}
}
