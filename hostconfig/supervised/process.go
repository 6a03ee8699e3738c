package supervised

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxProc bounds what is read of each file in /proc, in bytes.
	maxProc = 64 << 10
	// tick is the unit of time in /proc/PID/stat, USER_HZ: the same on all architectures that Go has.
	tick = time.Second / 100
)

// errEnded means that a process has ended.
var errEnded = errors.New("the process has ended")

// process is a process that cannot be mistaken for a later one of the same number.
type process struct {
	fd     int // a pidfd
	pid    int
	inner  int   // its number in its own PID namespace
	parent int   // 0 if it is in no PID namespace of ours
	start  int64 // in ticks since the machine started
	comm   string
	argv   []string
}

// openProcess finds out what a pidfd's process is, and takes the pidfd over, also when it fails. The error is errEnded if
// the process has ended, and ErrPIDNamespace if it is in no PID namespace of ours.
func openProcess(fd int) (*process, error) {
	p := &process{fd: fd}
	err := p.read()
	if !alive(fd) {
		err = errEnded // and what was read may be another one's
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) read() error {
	info, err := readProc("self/fdinfo", strconv.Itoa(p.fd))
	if err != nil {
		return err
	}
	switch p.pid, err = parseFdinfo(info); {
	case err != nil:
		return err
	case p.pid == 0:
		return ErrPIDNamespace
	case p.pid < 0:
		return errEnded
	}
	number := strconv.Itoa(p.pid)
	comm, err := readProc(number, "comm")
	if err != nil {
		return err
	}
	p.comm = strings.TrimSuffix(string(comm), "\n")
	line, err := readProc(number, "cmdline")
	if err != nil {
		return err
	}
	if p.argv = parseCmdline(line); len(p.argv) == 0 {
		return errEnded // its memory is gone, a moment before it counts as ended; or it is the kernel's
	}
	stat, err := readProc(number, "stat")
	if err != nil {
		return err
	}
	if p.parent, p.start, err = parseStat(stat); err != nil {
		return err
	}
	p.inner, err = innerNumber(p.pid)
	return err
}

// takesAll tells whether the end of a process is the end of all others in its PID namespace.
func (p *process) takesAll() bool {
	if p.inner == 1 || p.parent == 0 {
		return p.inner == 1
	}
	inner, err := innerNumber(p.parent)
	if err != nil || inner != 1 {
		return false
	}
	comm, err := readProc(strconv.Itoa(p.parent), "comm")
	// These run as process 1 of a container, and end when their child does.
	passers := []string{"tini", "docker-init", "dumb-init", "catatonit"}
	return err == nil && slices.Contains(passers, strings.TrimSpace(string(comm)))
}

// innerNumber is a process's number in its own PID namespace.
func innerNumber(pid int) (int, error) {
	status, err := readProc(strconv.Itoa(pid), "status")
	if err != nil {
		return 0, err
	}
	return parseNSpid(status)
}

func (p *process) close() { unix.Close(p.fd) }

// terminate sends SIGTERM. A process that has ended is no error.
func (p *process) terminate() error {
	err := unix.PidfdSendSignal(p.fd, unix.SIGTERM, nil, 0)
	switch {
	case err == nil, errors.Is(err, unix.ESRCH):
		return nil
	case errors.Is(err, unix.EINVAL):
		return ErrPIDNamespace
	}
	return fmt.Errorf("tell containerd (process %d) to end: %w", p.pid, err)
}

// id is the same for no two processes of this boot.
func (p *process) id() string { return fmt.Sprintf("%d-%d", p.pid, p.start) }

// invocation is the same for no two processes of this machine.
func (p *process) invocation(bootID string) string {
	sum := sha256.Sum256([]byte(bootID + " " + p.id()))
	return hex.EncodeToString(sum[:16])
}

// binary is the program's path. A program that was started by its name alone is found only if the kernel lets us see it.
func (p *process) binary() string {
	if len(p.argv) > 0 && filepath.IsAbs(p.argv[0]) {
		return p.argv[0] // by which it will be started again, also when the file there is a newer one by now
	}
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.pid), "exe"))
	if err != nil || !alive(p.fd) {
		return ""
	}
	return strings.TrimSuffix(exe, " (deleted)")
}

// alive tells whether a pidfd's process has not ended.
func alive(fd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 0
		}
	}
}

// ticks is the time since the machine started, by the clock of /proc/PID/stat.
func ticks() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // cannot fail since Linux 2.6.39
	return now.Nano() / int64(tick)
}

func readProc(elem ...string) ([]byte, error) {
	f, err := os.Open(filepath.Join("/proc", filepath.Join(elem...)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProc))
}

// parseFdinfo reads the number of a pidfd's process, as pid_show_fdinfo of Linux writes it: 0 if the process is in no PID
// namespace of the reader's, -1 if it has ended.
func parseFdinfo(info []byte) (int, error) {
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.New("the kernel does not say which process a pidfd is of (/proc/self/fdinfo)")
}

// parseNSpid reads the last of a process's numbers, the first of which is that in the PID namespace of /proc.
func parseNSpid(status []byte) (int, error) {
	for line := range strings.Lines(string(status)) {
		if numbers := strings.Fields(line); len(numbers) > 1 && numbers[0] == "NSpid:" {
			return strconv.Atoi(numbers[len(numbers)-1])
		}
	}
	return 0, errors.New("the kernel does not say in which PID namespaces a process is (NSpid)")
}

// parseCmdline splits a command line of /proc.
func parseCmdline(line []byte) []string {
	if len(line) == 0 {
		return nil // as of a process that has ended, or of the kernel's
	}
	return strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
}

// parseStat reads the parent and the start time; see proc_pid_stat(5). The name may hold anything, parentheses too.
func parseStat(stat []byte) (parent int, start int64, err error) {
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("what /proc says of a process is not understood: %d fields", len(fields))
	}
	if parent, err = strconv.Atoi(fields[1]); err == nil {
		start, err = strconv.ParseInt(fields[19], 10, 64)
	}
	return parent, start, err
}

// numbers are the numbers of all processes.
func numbers() ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			all = append(all, pid)
		}
	}
	return all, nil
}
