package config

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hotplate-dev/hotplate/certs"
)

// Snapshot is what a source held at one moment.
type Snapshot struct {
	// Source says where it is from, for people: the path of a file.
	Source string
	// Raw is the document as it was read; nil if it could not be.
	Raw []byte
	// Config is the document decoded; nil if it has faults.
	Config *Config
	// Hash is that of Config, empty without one. It can be shown.
	Hash string
	// Bundles and KeyPairs are what Config names under certs, by name.
	Bundles  map[string]certs.Bundle
	KeyPairs map[string]certs.KeyPair
	// Logins are what Config names under credentials, by name.
	Logins map[string]Logins
	// Objects are those that names in the document were looked up in; nil outside of a cluster.
	Objects Objects
	// Warnings say what is in force and will not work as it looks.
	Warnings []string
	// Err is why this snapshot must not be put in force; the last good one stays. It is Faults if the document is
	// invalid, and something else if the document, or a file that it names, cannot be read. It holds no secret.
	Err error
	// Content stands for the document and the contents of every file and object that it names: it differs if and only if
	// one of those does. It is keyed with a random key of this source, so that it tells nothing about a password and means
	// nothing to another process.
	Content string
}

// Read decodes a document that was read from source and loads the files and objects that it names; outside of a cluster
// objects is nil. The Snapshot has no Content.
func Read(source string, raw []byte, objects Objects) Snapshot {
	s := Snapshot{Source: source, Raw: raw, Objects: objects}
	if s.Config, s.Err = Decode(source, raw); s.Err != nil {
		return s
	}
	s.Hash = Hash(s.Config)
	var certsErr, loginsErr error
	s.Bundles, s.KeyPairs, certsErr = LoadCerts(s.Config, objects)
	s.Logins, s.Warnings, loginsErr = LoadCredentials(s.Config, objects)
	s.Err = errors.Join(certsErr, loginsErr)
	return s
}

// FileSource delivers a config file, and what the files it names hold, whenever any of them changes. Next is for one
// goroutine at a time; Close may be called from any.
type FileSource struct {
	path    string // as given, for messages
	log     *slog.Logger
	timing  timing
	key     []byte // of Snapshot.Content
	last    string // the Content delivered last
	watches *watches
	done    chan struct{}
	close   func() error
}

// timing is how long a FileSource waits.
type timing struct {
	// poll is how long no event may come before the files are read all the same. Events are hints: a file on a
	// network file system gives none, and the kernel drops some when there are too many.
	poll time.Duration
	// settle is how long no event may come before the files are read, so that a change of several files is seen whole.
	// After ten times as long they are read in any case.
	settle time.Duration
}

// NewFileSource watches the config file at path. The file need not be there yet. If the kernel grants no watches, the
// source polls, and says so in the log.
func NewFileSource(path string, log *slog.Logger) (*FileSource, error) {
	return newFileSource(path, log, timing{poll: 30 * time.Second, settle: 50 * time.Millisecond})
}

func newFileSource(path string, log *slog.Logger, t timing) (*FileSource, error) {
	if path == "" {
		return nil, errors.New("config source: no file given")
	}
	if log == nil {
		return nil, errors.New("config source: no logger given")
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		watcher = nil
		t.poll = min(t.poll, 5*time.Second)
		log.Warn("cannot watch files for changes; reading them again and again instead", "every", t.poll, "error", err,
			"next", "raise fs.inotify.max_user_instances")
	}
	s := &FileSource{
		path:    path,
		log:     log,
		timing:  t,
		key:     []byte(rand.Text()),
		watches: newWatches(watcher, log),
		done:    make(chan struct{}),
	}
	s.close = sync.OnceValue(func() error {
		close(s.done)
		if watcher == nil {
			return nil
		}
		return watcher.Close()
	})
	return s, nil
}

// Close ends the watching and every Next that waits. It may be called more than once.
func (s *FileSource) Close() error { return s.close() }

// Next returns at once when it is called first, and then when something has changed. What is wrong with the document
// or its files is in the snapshot; the error says that ctx has ended or the source was closed.
func (s *FileSource) Next(ctx context.Context) (Snapshot, error) {
	for {
		if err := s.ended(ctx); err != nil {
			return Snapshot{}, err
		}
		if s.last != "" {
			if err := s.wait(ctx); err != nil {
				return Snapshot{}, err
			}
		}
		if snapshot := s.look(); snapshot.Content != s.last {
			s.last = snapshot.Content
			return snapshot, nil
		}
	}
}

func (s *FileSource) ended(ctx context.Context) error {
	select {
	case <-s.done:
		return fmt.Errorf("config source %q: %w", s.path, os.ErrClosed)
	default:
		return ctx.Err()
	}
}

// wait returns when it is worth looking again.
func (s *FileSource) wait(ctx context.Context) error {
	poll := time.NewTimer(s.timing.poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.ended(ctx)
		case <-poll.C:
			return nil
		case event := <-s.watches.events:
			if s.watches.concerns(event) {
				s.settle(ctx)
				return nil
			}
		case err := <-s.watches.errors:
			// Events are lost, ErrEventOverflow for example: look.
			s.log.Debug("watching files", "error", err)
			s.settle(ctx)
			return nil
		}
	}
}

// settle waits until there are no more events.
func (s *FileSource) settle(ctx context.Context) {
	quiet, most := time.NewTimer(s.timing.settle), time.NewTimer(10*s.timing.settle)
	defer quiet.Stop()
	defer most.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-quiet.C:
			return
		case <-most.C:
			return
		case event := <-s.watches.events:
			if s.watches.concerns(event) {
				quiet.Reset(s.timing.settle)
			}
		}
	}
}

// look reads everything. What is watched must have been watched before it was read, or a change between the two would
// be lost: so it reads again when the document turns out to name something new.
func (s *FileSource) look() Snapshot {
	const most = 3 // then there are events to wake us again, or the poll
	var snapshot Snapshot
	for range most {
		snapshot = s.load()
		files, dirs := []string{s.path}, []string(nil)
		if snapshot.Config != nil {
			named, namedDirs := snapshot.Config.sources()
			files, dirs = append(files, named...), namedDirs
		}
		if !s.watches.follow(files, dirs) {
			break
		}
	}
	return snapshot
}

func (s *FileSource) load() Snapshot {
	snapshot := Snapshot{Source: s.path}
	if raw, err := readFile(s.path); err != nil {
		snapshot.Err = fmt.Errorf("read config: %w", err)
	} else {
		snapshot = Read(s.path, raw, nil)
	}
	snapshot.Content = snapshot.Sum(s.key)
	return snapshot
}

// Sum is the Content under a key that nobody else knows. It takes what files and objects mean and not their bytes:
// certificates in another order are the same.
func (s Snapshot) Sum(key []byte) string {
	h := hmac.New(sha256.New, key)
	write := func(part string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write([]byte(part))
	}
	write(string(s.Raw))
	if s.Err != nil {
		write(s.Err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(s.Bundles)) {
		write("bundle " + name)
		write(string(s.Bundles[name].PEM()))
	}
	for _, name := range slices.Sorted(maps.Keys(s.KeyPairs)) {
		write("key pair " + name)
		write(string(s.KeyPairs[name].CertPEM()))
		write(string(s.KeyPairs[name].KeyPEM()))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Logins)) {
		write("login " + name)
		s.Logins[name].write(write)
	}
	for _, warning := range s.Warnings {
		write(warning)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// write puts out every login, the secrets among them.
func (l Logins) write(write func(string)) {
	put := func(host string, login Login) {
		write(host)
		write(login.Username)
		write(string(login.Password))
	}
	if l.single != nil {
		put("", *l.single)
	}
	for _, host := range slices.Sorted(maps.Keys(l.docker.exact)) {
		put(host, l.docker.exact[host])
	}
	for _, p := range l.docker.patterns {
		put(p.host, p.login)
	}
}

// sources are the files and directories that the config names.
func (c *Config) sources() (files, dirs []string) {
	for _, b := range c.Certs.Bundles {
		files, dirs = append(files, b.File), append(dirs, b.Dir)
	}
	for _, k := range c.Certs.KeyPairs {
		files = append(files, k.CertFile, k.KeyFile)
	}
	for _, l := range c.Credentials {
		files = append(files, l.DockerConfigFile, l.UsernameFile, l.PasswordFile)
	}
	unset := func(path string) bool { return path == "" }
	return slices.DeleteFunc(files, unset), slices.DeleteFunc(dirs, unset)
}

// absolutePath is for watching; a path that cannot be made absolute is watched as it stands.
func absolutePath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
