package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// asChild makes the test binary lower its own priority and print that of each thread: to undo it needs privileges.
const asChild = "HOTPLATE_TEST_LOWER_PRIORITY"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		if err := child(os.Getenv(asChild)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const before, later = 8, 8 // threads that are made before and after

func child(start string) error {
	if start == "lower" {
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness+5); err != nil {
			return err
		}
	}
	stop := make(chan struct{})
	defer close(stop)
	threads := func(n int) {
		for range n {
			running := make(chan struct{})
			go func() {
				runtime.LockOSThread() // ends with its goroutine
				close(running)
				<-stop
			}()
			<-running
		}
	}
	threads(before)
	if err := LowerPriority(); err != nil {
		return err
	}
	threads(later)
	tasks, err := os.ReadDir(tasksDir)
	if err != nil {
		return err
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(tasksDir, task.Name(), "stat"))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold blanks
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioWhoProcess, uintptr(tid), 0)
		if errno != 0 {
			return errno
		}
		fmt.Println("nice", strings.Fields(rest)[16], "io", io>>ioClassShift, io&7) // proc(5): nice is field 19
	}
	return nil
}

func run(t *testing.T, start string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asChild+"="+start)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestEveryThreadHasTheLowerPriority(t *testing.T) {
	lines := run(t, "normal")
	if len(lines) < before+later {
		t.Errorf("only %d threads: %q", len(lines), lines)
	}
	for _, line := range lines {
		if line != "nice 10 io 2 7" {
			t.Errorf("a thread has %s", line)
		}
	}
}

func TestWhatIsLowerAlreadyStays(t *testing.T) {
	found := false
	for _, line := range run(t, "lower") {
		found = found || strings.HasPrefix(line, "nice 15 ")
		if strings.HasPrefix(line, "nice 0 ") {
			t.Errorf("a thread has %s", line)
		}
	}
	if !found {
		t.Error("the thread that had a lower priority has a higher one now")
	}
}

func TestLimitMemory(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	t.Setenv("GOMEMLIMIT", "1GiB")
	LimitMemory(256 << 20)
	if got := debug.SetMemoryLimit(-1); got != old {
		t.Errorf("GOMEMLIMIT is set, and the limit is %d now", got)
	}
	t.Setenv("GOMEMLIMIT", "")
	LimitMemory(256 << 20)
	if got, want := debug.SetMemoryLimit(-1), int64(88<<20); got != want {
		t.Errorf("the limit is %d, want %d", got, want)
	}
}

func TestTightHeap(t *testing.T) {
	old := debug.SetGCPercent(100)
	defer debug.SetGCPercent(old)
	t.Setenv("GOGC", "70")
	TightHeap()
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC is set, and it is %d now", got)
	}
	t.Setenv("GOGC", "")
	TightHeap()
	if got := debug.SetGCPercent(100); got != heapGrowth {
		t.Errorf("it is %d, want %d", got, heapGrowth)
	}
}
