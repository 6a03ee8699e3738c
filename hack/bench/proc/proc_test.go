package proc_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
)

func TestProcess(t *testing.T) {
	const pid = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 80 0 0 150 25 4 1 20 0 9 0 12 1000 200 18446744073709551615\n"
	f := proc.FS{Root: fstest.MapFS{
		"7/stat":   {Data: []byte(pid)},
		"7/io":     {Data: []byte("rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n")},
		"7/status": {Data: []byte("Name:\ta\nVmPeak:\t  900 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n")},
		"8/stat":   {Data: []byte("8 (short) S 1")},
	}}
	got, err := f.Process(7)
	want := proc.Counters{CPUSeconds: 1.8, Written: 4096, PeakRSS: 300 << 10}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := f.Process(8); err == nil {
		t.Error("a cut line gave no error")
	}
	if _, err := f.Process(9); err == nil {
		t.Error("a process that is not there gave no error")
	}
	if diff := cmp.Diff(proc.Counters{CPUSeconds: 0.5, PeakRSS: 9},
		proc.Counters{CPUSeconds: 2, Written: 5, PeakRSS: 9}.Sub(proc.Counters{CPUSeconds: 1.5, Written: 5, PeakRSS: 1})); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
}

func TestCPUSeconds(t *testing.T) {
	with := func(text string) proc.FS {
		return proc.FS{Root: fstest.MapFS{"stat": {Data: []byte(text)}}}
	}
	if got, err := with("cpu  100 20 30 9000 9000 4 5 1 7 7\ncpu0 1 1\n").CPUSeconds(); err != nil || got != 1.6 {
		t.Errorf("they were busy for %v s, %v, want 1.6", got, err)
	}
	for _, text := range []string{"", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 7 x 9\n"} {
		if _, err := with(text).CPUSeconds(); err == nil {
			t.Errorf("%q gave no error", text)
		}
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := proc.DeviceOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	none := proc.FS{Root: fstest.MapFS{"diskstats": {Data: []byte("  1  9999 ram0 1 0 1 0 1 0 1 0 0 0 0\n")}}}
	if c, err := none.Disk(d); err != nil || c.Written != -1 {
		t.Errorf("a device that is not listed has done %+v, %v, want -1 written", c, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprint(unix.Major(st.Dev), " ", unix.Minor(st.Dev)) + " vda 100 5 2000 9 300 7 4000 11 0 20 20\n"
	one := proc.FS{Root: fstest.MapFS{"diskstats": {Data: []byte(line)}}}
	want := proc.DiskCounters{Written: 4000 * 512, Busy: 20 * time.Millisecond}
	if c, err := one.Disk(d); err != nil || c != want {
		t.Errorf("the device has done %+v, %v, want %+v", c, err, want)
	}
}

// TestProcessThatEnded reads the counters of a child that nobody has waited for, which the measurement depends on.
func TestProcessThatEnded(t *testing.T) {
	file := t.TempDir() + "/file"
	cmd := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=1M", "count=8", "conv=fsync")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := proc.AwaitEnd(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	c, err := proc.Host().Process(cmd.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("a tmpfs does not count what is written")
	}
	if c.Written < 8<<20 || c.Written > 9<<20 {
		t.Errorf("it wrote %d bytes, want 8 MiB", c.Written)
	}
}

func TestResetPeak(t *testing.T) {
	const size = 64 << 20
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	before, err := proc.Host().Process(os.Getpid())
	if err := errors.Join(err, unix.Munmap(data)); err != nil {
		t.Fatal(err)
	}
	if err := proc.ResetPeak(os.Getpid()); err != nil {
		t.Skipf("the peak cannot be reset here: %v", err)
	}
	after, err := proc.Host().Process(os.Getpid())
	if err != nil || after.PeakRSS > before.PeakRSS-size/2 {
		t.Errorf("the peak is %d after the reset, %v; it was %d with %d of them given back", after.PeakRSS, err,
			before.PeakRSS, size)
	}
}
