package staging

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alignment is what every Linux filesystem that knows O_DIRECT is content with (open(2)).
const alignment = 4096

// osFile is a file on a real disk. What is aligned goes past the page cache: nobody reads the bytes of a blob once more,
// other than after a crash, and a large one would push everything else out of memory. It is also less work for the kernel.
type osFile struct {
	*os.File

	once   sync.Once
	direct *os.File // nil where the filesystem does not know O_DIRECT
}

var _ file = (*osFile)(nil)

// WriteAt implements io.WriterAt.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	if whole := len(p) &^ (alignment - 1); whole > 0 && aligned(p, off) && f.past() != nil {
		n, err := f.direct.WriteAt(p[:whole], off)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return n, err
		}
		done = n // with EINVAL, it wants another alignment: then the page cache it is
	}
	n, err := f.File.WriteAt(p[done:], off+int64(done))
	return done + n, err
}

func aligned(p []byte, off int64) bool {
	return off%alignment == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%alignment == 0
}

// past opens the file a second time.
func (f *osFile) past() *os.File {
	f.once.Do(func() {
		name := fmt.Sprintf("/proc/self/fd/%d", f.Fd()) // whatever has the file's name now
		f.direct, _ = os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
	})
	return f.direct
}

// StartWriting implements file. What went past the page cache is written already, and nothing is left to do.
func (f *osFile) StartWriting(off, n int64) {
	// Without it everything is still right, only later.
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// Close implements io.Closer. It must not be called beside other methods.
func (f *osFile) Close() error {
	err := f.File.Close()
	if f.direct != nil {
		err = errors.Join(err, f.direct.Close())
	}
	return err
}
