package supervised

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// candidate is the name beside containerd's configuration under which another one is checked. It does not end in .toml,
// which is what imports take.
const candidate = ".hotplate-candidate"

// stage is a program's command line, and where the configuration is that is to be shown to it in the place of another one.
type stage struct {
	argv   []string
	config string // after --config in the original command line, or empty
	beside string // candidate beside it
	data   []byte // of the candidate; nil if there is none
}

// newStage reads the file of c.Binds, if there is one. It changes nothing.
func newStage(c systemd.Command) (*stage, error) {
	s := &stage{argv: slices.Clone(c.Argv)}
	i := slices.Index(s.argv, "--config") + 1
	if i > 0 && i < len(s.argv) {
		s.config = s.argv[i]
		s.beside = filepath.Join(filepath.Dir(s.config), candidate)
	}
	if len(c.Binds) == 0 {
		return s, nil
	}
	real, err := filepath.EvalSymlinks(s.config)
	if len(c.Binds) > 1 || err != nil || real != c.Binds[0].Target {
		return nil, fmt.Errorf("%w: %s is not containerd's main configuration file, and without systemd only that one can be tried",
			ErrCannotCheck, c.Binds[0].Target)
	}
	if s.data, err = readFile(c.Binds[0].Source); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCannotCheck, err)
	}
	imports := &imports{taken: []string{s.config, s.beside}, original: real, seen: make(map[string]bool)}
	if err := imports.check(s.config, s.data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCannotCheck, err)
	}
	s.argv[i] = s.beside
	return s, nil
}

// put puts the candidate in its place, and takes away what a crash has left there.
func (s *stage) put() error {
	if s.config == "" {
		return nil
	}
	err := s.remove()
	if s.data == nil {
		return nil // the directory may be one in which nothing can be written, or removed
	}
	if err == nil {
		err = s.write()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotCheck, err)
	}
	return nil
}

func (s *stage) write() error {
	f, err := os.OpenFile(s.beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // it may hold passwords
	if err != nil {
		return err
	}
	_, err = f.Write(s.data)
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, s.remove())
	}
	return err
}

func (s *stage) remove() error {
	if err := os.Remove(s.beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// end takes the candidate away, and gives it the name of the file that it stands for in what the program has written.
func (s *stage) end(r *systemd.Result) error {
	if s.data == nil {
		return nil
	}
	r.Stdout = bytes.ReplaceAll(r.Stdout, []byte(s.beside), []byte(s.config))
	r.Stderr = bytes.ReplaceAll(r.Stderr, []byte(s.beside), []byte(s.config))
	return s.remove()
}
