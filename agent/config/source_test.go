package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eventsOnly is a timing under which nothing is noticed by polling before the test gives up.
var eventsOnly = timing{poll: time.Hour, settle: 5 * time.Millisecond}

const patience = 30 * time.Second

func startSource(t *testing.T, path string, timing timing) *FileSource {
	t.Helper()
	s, err := newFileSource(path, slog.New(slog.DiscardHandler), timing)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// until takes snapshots until one is as wanted. A test may not count them: a file that is written in two steps may be
// seen between them.
func until(t *testing.T, s *FileSource, wanted func(Snapshot) bool) Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last Snapshot
	for {
		snapshot, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("next: %v; the last snapshot has the error %v and the document\n%s", err, last.Err, last.Raw)
		}
		if wanted(snapshot) {
			return snapshot
		}
		last = snapshot
	}
}

func valid(s Snapshot) bool { return s.Err == nil }

// withImage is a document that names one image.
func withImage(name string) string {
	return string(document(fmt.Sprintf("images: [{name: %s, ref: example.com/%s}]\n", name, name)))
}

func hasImage(name string) func(Snapshot) bool {
	return func(s Snapshot) bool { return valid(s) && len(s.Config.Images) == 1 && s.Config.Images[0].Name == name }
}

func withBundle(field, path string) string {
	return string(document(fmt.Sprintf("certs: {bundles: [{name: corp, %s: %q}]}\n", field, path)))
}

func hasCerts(n int) func(Snapshot) bool {
	return func(s Snapshot) bool { return valid(s) && s.Bundles["corp"].Len() == n }
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// kubeletWrites puts files into a volume as kubelet does (pkg/volume/util/atomic_writer.go): into a new directory, to
// which the symlink ..data is turned by rename.
func kubeletWrites(t *testing.T, volume, generation string, files map[string]string) {
	t.Helper()
	old, _ := os.Readlink(filepath.Join(volume, "..data"))
	for name, text := range files {
		put(t, filepath.Join(volume, "..2026_"+generation, name), text)
	}
	symlink(t, "..2026_"+generation, filepath.Join(volume, "..data_tmp"))
	rename(t, filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data"))
	for name := range files {
		if _, err := os.Lstat(filepath.Join(volume, name)); errors.Is(err, fs.ErrNotExist) {
			symlink(t, filepath.Join("..data", name), filepath.Join(volume, name))
		}
	}
	if old != "" {
		remove(t, filepath.Join(volume, old))
	}
}

func TestSourceSeesChanges(t *testing.T) {
	one, oneKey := issue(t, "one")
	two, twoKey := issue(t, "two")
	for name, test := range map[string]struct {
		before func(t *testing.T, dir string) // the config is dir/etc/config.yaml
		first  func(Snapshot) bool
		change func(t *testing.T, dir string)
		then   func(Snapshot) bool
	}{
		"the config is replaced by rename": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) {
				rename(t, put(t, dir+"/etc/.config.yaml.tmp", withImage("b")), dir+"/etc/config.yaml")
			},
			then: hasImage("b"),
		},
		"the config is written in place": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("b")) },
			then:   hasImage("b"),
		},
		"the kubelet turns ..data": {
			before: func(t *testing.T, dir string) {
				kubeletWrites(t, dir+"/etc", "1", map[string]string{"config.yaml": withImage("a")})
			},
			first: hasImage("a"),
			change: func(t *testing.T, dir string) {
				kubeletWrites(t, dir+"/etc", "2", map[string]string{"config.yaml": withImage("b")})
				kubeletWrites(t, dir+"/etc", "3", map[string]string{"config.yaml": withImage("c")})
			},
			then: hasImage("c"),
		},
		"the config is not there yet": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/other", "") },
			first:  func(s Snapshot) bool { return errors.Is(s.Err, fs.ErrNotExist) && s.Config == nil && s.Raw == nil },
			change: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			then:   hasImage("a"),
		},
		"the directory of the config is not there yet": {
			before: func(*testing.T, string) {},
			first:  func(s Snapshot) bool { return errors.Is(s.Err, fs.ErrNotExist) },
			change: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			then:   hasImage("a"),
		},
		"the config vanishes": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) { remove(t, dir+"/etc/config.yaml") },
			then:   func(s Snapshot) bool { return errors.Is(s.Err, fs.ErrNotExist) && s.Config == nil },
		},
		"the directory of the config vanishes": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) { remove(t, dir+"/etc") },
			then:   func(s Snapshot) bool { return errors.Is(s.Err, fs.ErrNotExist) },
		},
		"the directory of the config is replaced": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) {
				put(t, dir+"/new/config.yaml", withImage("b"))
				rename(t, dir+"/etc", dir+"/old")
				rename(t, dir+"/new", dir+"/etc")
			},
			then: hasImage("b"),
		},
		"a symlink on the way to the config is turned": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/v1/config.yaml", withImage("a"))
				put(t, dir+"/v2/config.yaml", withImage("b"))
				symlink(t, dir+"/v1", dir+"/etc")
			},
			first: hasImage("a"),
			change: func(t *testing.T, dir string) {
				symlink(t, "v2", dir+"/etc.tmp")
				rename(t, dir+"/etc.tmp", dir+"/etc")
			},
			then: hasImage("b"),
		},
		"the config becomes invalid": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			first:  hasImage("a"),
			change: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", "imagse: []\n") },
			then: func(s Snapshot) bool {
				faults, ok := errors.AsType[Faults](s.Err)
				return ok && len(faults) == 2 && s.Config == nil && len(s.Raw) > 0
			},
		},
		"the config becomes valid": {
			before: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", "imagse: []\n") },
			first:  func(s Snapshot) bool { return !valid(s) },
			change: func(t *testing.T, dir string) { put(t, dir+"/etc/config.yaml", withImage("a")) },
			then:   hasImage("a"),
		},
		"a CA file is replaced": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/ca/ca.pem", one)
				put(t, dir+"/etc/config.yaml", withBundle("file", dir+"/ca/ca.pem"))
			},
			first: hasCerts(1),
			change: func(t *testing.T, dir string) {
				rename(t, put(t, dir+"/ca/.tmp", one+two), dir+"/ca/ca.pem")
			},
			then: hasCerts(2),
		},
		"a CA file is not there yet": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/etc/config.yaml", withBundle("file", dir+"/ca/sub/ca.pem"))
			},
			first: func(s Snapshot) bool {
				return errors.Is(s.Err, fs.ErrNotExist) && s.Config != nil && strings.Contains(s.Err.Error(), `"corp"`)
			},
			change: func(t *testing.T, dir string) { put(t, dir+"/ca/sub/ca.pem", one) },
			then:   hasCerts(1),
		},
		"a CA directory gets a file": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/ca/one.pem", one)
				put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/ca"))
			},
			first:  hasCerts(1),
			change: func(t *testing.T, dir string) { put(t, dir+"/ca/two.crt", two) },
			then:   hasCerts(2),
		},
		"a CA directory loses a file": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/ca/one.pem", one)
				put(t, dir+"/ca/two.pem", two)
				put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/ca"))
			},
			first:  hasCerts(2),
			change: func(t *testing.T, dir string) { remove(t, dir+"/ca/one.pem") },
			then:   hasCerts(1),
		},
		"a CA directory is removed and made again": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/etc/ca/one.pem", one)
				put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/etc/ca"))
			},
			first: hasCerts(1),
			change: func(t *testing.T, dir string) {
				remove(t, dir+"/etc/ca")
				put(t, dir+"/etc/ca/one.pem", one)
				put(t, dir+"/etc/ca/two.pem", two)
			},
			then: hasCerts(2),
		},
		"the kubelet writes a CA directory": {
			before: func(t *testing.T, dir string) {
				kubeletWrites(t, dir+"/ca", "1", map[string]string{"one.pem": one})
				put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/ca"))
			},
			first: hasCerts(1),
			change: func(t *testing.T, dir string) {
				kubeletWrites(t, dir+"/ca", "2", map[string]string{"one.pem": one, "two.pem": two})
			},
			then: hasCerts(2),
		},
		"a key pair is replaced, the one file after the other": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/tls/tls.crt", one)
				put(t, dir+"/tls/tls.key", oneKey)
				put(t, dir+"/etc/config.yaml", string(document(fmt.Sprintf(
					"certs: {keyPairs: [{name: node, certFile: \"%s/tls/tls.crt\", keyFile: \"%s/tls/tls.key\"}]}\n", dir, dir))))
			},
			first: func(s Snapshot) bool { return valid(s) && s.KeyPairs["node"].Leaf().Subject.CommonName == "one" },
			change: func(t *testing.T, dir string) {
				put(t, dir+"/tls/tls.crt", two)
				put(t, dir+"/tls/tls.key", twoKey)
			},
			then: func(s Snapshot) bool { return valid(s) && s.KeyPairs["node"].Leaf().Subject.CommonName == "two" },
		},
		"a password is replaced": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/login/user", "robot")
				put(t, dir+"/login/password", "old")
				put(t, dir+"/etc/config.yaml", string(document(fmt.Sprintf(
					"credentials: [{name: robot, usernameFile: \"%s/login/user\", passwordFile: \"%s/login/password\"}]\n",
					dir, dir))))
			},
			first:  hasPassword("old"),
			change: func(t *testing.T, dir string) { put(t, dir+"/login/password", "new\n") },
			then:   hasPassword("new"),
		},
		"a docker config is replaced": {
			before: func(t *testing.T, dir string) {
				put(t, dir+"/login/config.json", `{"auths": {"example.com": `+auth("robot", "old")+`}}`)
				put(t, dir+"/etc/config.yaml", string(document(fmt.Sprintf(
					"credentials: [{name: robot, dockerConfigFile: \"%s/login/config.json\"}]\n", dir))))
			},
			first: hasPassword("old"),
			change: func(t *testing.T, dir string) {
				put(t, dir+"/login/config.json", `{"auths": {"example.com": `+auth("robot", "new")+`}}`)
			},
			then: hasPassword("new"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.before(t, dir)
			s := startSource(t, dir+"/etc/config.yaml", eventsOnly)
			first, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !test.first(first) {
				t.Fatalf("the first snapshot is not as it should be: error %v, document\n%s", first.Err, first.Raw)
			}
			test.change(t, dir)
			then := until(t, s, test.then)
			if then.Content == first.Content {
				t.Error("the content is another, and its hash is the same")
			}
			if valid(then) && then.Hash != Hash(then.Config) {
				t.Error("the snapshot's hash is not that of its config")
			}
		})
	}
}

func hasPassword(password string) func(Snapshot) bool {
	return func(s Snapshot) bool {
		login, ok := s.Logins["robot"].Login("example.com")
		return valid(s) && ok && string(login.Password) == password
	}
}

func TestSourceFollowsWhatTheConfigNames(t *testing.T) {
	dir := t.TempDir()
	one, _ := issue(t, "one")
	two, _ := issue(t, "two")
	put(t, dir+"/a/one.pem", one)
	put(t, dir+"/b/one.pem", one)
	s := startSource(t, put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/a")), eventsOnly)
	until(t, s, hasCerts(1))
	put(t, dir+"/etc/config.yaml", withBundle("dir", dir+"/b"))
	until(t, s, func(s Snapshot) bool { return valid(s) && s.Config.Certs.Bundles[0].Dir == dir+"/b" })
	if got := s.watches.watched; got[dir+"/a"] != nil || got[dir+"/b"] == nil {
		t.Errorf("a directory that is no longer named is watched, or the new one is not: %v", got)
	}
	put(t, dir+"/b/two.pem", two)
	until(t, s, hasCerts(2))
}

// A directory further up says nothing when it is replaced; the poll sees it. From then on events must come from the new
// one.
func TestSourceWatchesTheDirectoryThatIsThereNow(t *testing.T) {
	dir := t.TempDir()
	config := put(t, dir+"/a/etc/config.yaml", withImage("a"))
	s := startSource(t, config, eventsOnly)
	until(t, s, hasImage("a"))
	rename(t, dir+"/a", dir+"/old")
	put(t, config, withImage("b"))
	if polled := s.look(); !hasImage("b")(polled) {
		t.Fatalf("the poll sees the error %v and the document\n%s", polled.Err, polled.Raw)
	}
	put(t, config, withImage("c"))
	until(t, s, hasImage("c"))
}

func TestSourcePollsWhereItCannotWatch(t *testing.T) {
	dir := t.TempDir()
	config := put(t, dir+"/config.yaml", withImage("a"))
	s := startSource(t, config, timing{poll: time.Millisecond, settle: time.Millisecond})
	s.watches = newWatches(nil, s.log)
	until(t, s, hasImage("a"))
	put(t, config, withImage("b"))
	until(t, s, hasImage("b"))
}

func TestSourceWatchesABoundedNumberOfDirectories(t *testing.T) {
	dir := t.TempDir()
	one, _ := issue(t, "one")
	var bundles strings.Builder
	for i := range maxWatches + 10 {
		ca := fmt.Sprintf("%s/ca%d", dir, i)
		put(t, ca+"/ca.pem", one)
		fmt.Fprintf(&bundles, "    - {name: b%d, dir: %q}\n", i, ca)
	}
	s := startSource(t, put(t, dir+"/config.yaml", string(document("certs:\n  bundles:\n"+bundles.String()))), eventsOnly)
	var logged strings.Builder
	s.watches.log = slog.New(slog.NewTextHandler(&logged, nil))
	until(t, s, valid)
	s.look()
	if n := len(s.watches.watched); n != maxWatches {
		t.Errorf("%d directories are watched; want %d", n, maxWatches)
	}
	if n := strings.Count(logged.String(), "\n"); n != 1 {
		t.Errorf("the log has %d lines; want one:\n%s", n, logged.String())
	}
}

// Whether there is a new snapshot is decided by the content, so this asks for the content.
func TestSourceContentIsThatOfTheFiles(t *testing.T) {
	dir := t.TempDir()
	one, _ := issue(t, "one")
	two, _ := issue(t, "two")
	put(t, dir+"/ca.pem", one+two)
	put(t, dir+"/user", "robot")
	put(t, dir+"/password", "old")
	text := withBundle("file", dir+"/ca.pem") +
		fmt.Sprintf("credentials: [{name: robot, usernameFile: %s/user, passwordFile: %s/password}]\n", dir, dir)
	s := startSource(t, put(t, dir+"/config.yaml", text), eventsOnly)
	first := until(t, s, valid)
	same := func(what string, want bool) {
		t.Helper()
		if now := s.look(); (now.Content == first.Content) != want || now.Err != nil {
			t.Errorf("%s: the content is the same: %v; want %v; error %v", what, !want, want, now.Err)
		}
	}
	same("nothing happened", true)
	if err := os.Chtimes(dir+"/config.yaml", time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	rename(t, put(t, dir+"/tmp", text), dir+"/config.yaml")
	same("the config was replaced by its equal", true)
	put(t, dir+"/ca.pem", "A comment.\n"+two+one)
	same("the certificates are in another order", true)
	put(t, dir+"/password", "new")
	same("the password is another", false)
	put(t, dir+"/password", "old\n")
	same("the password is the old one again", true)
	put(t, dir+"/config.yaml", text+"# A comment.\n")
	same("the config has a comment", false)
	put(t, dir+"/config.yaml", text)

	other := startSource(t, dir+"/config.yaml", eventsOnly)
	if other.look().Content == first.Content {
		t.Error("another source has the same content, so that a password could be guessed from it")
	}
}

func TestSourceEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(s *FileSource, cancel func())
		want error
	}{
		"when its context is cancelled": {func(_ *FileSource, cancel func()) { cancel() }, context.Canceled},
		"when it is closed":             {func(s *FileSource, _ func()) { _ = s.Close() }, os.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSource(t, put(t, t.TempDir()+"/config.yaml", withImage("a")), eventsOnly)
			until(t, s, valid)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error)
			go func() {
				_, err := s.Next(ctx)
				result <- err
			}()
			test.end(s, cancel)
			if err := <-result; !errors.Is(err, test.want) {
				t.Errorf("next: %v; want %v", err, test.want)
			}
			if _, err := s.Next(ctx); !errors.Is(err, test.want) {
				t.Errorf("next afterwards: %v; want %v", err, test.want)
			}
		})
	}
}

func TestNewFileSourceNeedsItsParts(t *testing.T) {
	if _, err := NewFileSource("", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error without a file")
	}
	if _, err := NewFileSource("config.yaml", nil); err == nil {
		t.Error("no error without a logger")
	}
	s, err := NewFileSource("config.yaml", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
}
