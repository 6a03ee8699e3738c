package apply

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another process uses the state directory.
var ErrLocked = errors.New("in use by another process")

const lockName = "lock"

// lock takes the exclusive lock of a state directory. The kernel lets go of it when the process dies, however it dies.
// The file holds the owner's pid, for the message to the next one, and stays when the lock is released.
func lock(stateDir string) (*os.File, error) {
	name := filepath.Join(stateDir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		owner := lockOwner(f)
		f.Close()
		return nil, fmt.Errorf("state directory %q is %w (%s): stop it first", stateDir, ErrLocked, owner)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", name, err)
	}
	// The lock holds without the pid; on a full disk the message to the next one is poorer.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func lockOwner(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 32))
	if pid, perr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && perr == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "its process id is not known"
}
