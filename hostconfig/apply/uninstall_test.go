package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// oddTree is a hosts directory with everything that is hard to put back.
func oddTree(t *testing.T, r *rig) {
	t.Helper()
	r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n")
	r.write("docker.io/ca.crt", "a certificate")
	r.write("docker.io/deep/er/key", "a key")
	r.write("quay.io/hosts.toml", "server = \"https://quay.example.com\"\n")
	r.write("localhost:5000/ca.crt", "another")
	r.write("untouched.example.com/hosts.toml", "server = \"https://x.example.com\"\n")
	r.write("a-file", "neither directory nor registry")
	r.symlink("docker.io/link.crt", "deep/er/key")
	r.symlink("docker.io/dangling", "/nowhere/at/all")
	r.symlink("ghcr.io", "untouched.example.com")
	in := func(p string) string { return filepath.Join(r.hosts, p) }
	errs := []error{
		os.Mkdir(in("docker.io/empty"), 0o711),
		os.Mkdir(in("gcr.io"), 0o755), // an empty host directory
		os.Link(in("docker.io/ca.crt"), in("docker.io/same.crt")),
		os.Chmod(in("docker.io/ca.crt"), 0o444),
		os.Chmod(in("docker.io/deep/er/key"), 0o600),
		os.Chmod(in("docker.io/deep"), 0o700),
		os.Chmod(in("docker.io"), 0o2750),
		os.WriteFile(in("docker.io/empty-file"), nil, 0o640),
		unix.Mkfifo(in("docker.io/fifo"), 0o600),
	}
	if os.Getuid() == 0 {
		errs = append(errs, os.Lchown(in("docker.io"), 1234, 4321), os.Lchown(in("docker.io/link.crt"), 7, 8),
			os.Lchown(in("docker.io/deep/er/key"), 1000, 1000), os.Chmod(in("docker.io"), 0o2750|os.ModeSetgid))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"ca.crt", "deep/er", "deep", "empty", ".", "../gcr.io"} {
		r.age("docker.io/" + p)
	}
}

func TestUninstallPutsEverythingBackByteForByte(t *testing.T) {
	r := newRig(t)
	oddTree(t, r)
	original := snapshot(t, r.hosts)
	h := r.start()
	defer r.close(h)
	hosts := []string{"docker.io", "quay.io", "localhost:5000", "ghcr.io", "gcr.io", "new.example.com", "_default"}
	var regs []hostconfig.Registry
	var adopt []string
	for _, host := range hosts {
		regs = append(regs, mirror(host, "https://mirror.example.com", "one"))
		adopt = append(adopt, hostconfig.HostDir(host))
	}
	tree := render(t, regs...)
	for range 3 {
		if receipt := r.apply(h, tree, adopt...); len(blocking(receipt)) > 0 || len(receipt.Left) > 0 {
			t.Errorf("conflicts %+v, left %+v", blocking(receipt), receipt.Left)
		}
		for _, host := range hosts {
			if v := view(r.hosts, host); !strings.Contains(v, "mirror.example.com") || strings.Contains(v, "error") {
				t.Errorf("containerd sees for %s: %s", host, v)
			}
		}
		r.clock.advance(time.Minute)
	}
	for p := range tree {
		if dir := filepath.Dir(p); dir != hostconfig.SharedDir && dir != "." {
			if entries, err := os.ReadDir(filepath.Join(r.hosts, dir)); err != nil || len(entries) != 1 {
				t.Errorf("%s holds %v, %v; want hosts.toml alone", dir, entries, err)
			}
		}
	}
	receipt := r.uninstall(h)
	if len(receipt.Left) > 0 {
		t.Errorf("left: %+v", receipt.Left)
	}
	wantSame(t, "hosts directory after uninstall", original, snapshot(t, r.hosts))
}

func TestAdoptedFilesStayWhileALoadMayStillOpenThem(t *testing.T) {
	r := newRig(t)
	oddTree(t, r)
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"),
		mirror("localhost:5000", "https://l.example.com", "one"))
	receipt := r.apply(h, tree, "docker.io", "localhost_5000_")
	for _, p := range []string{
		"docker.io/ca.crt", "docker.io/deep/er/key", "docker.io/link.crt", "localhost:5000/ca.crt",
	} {
		if !r.exists(p) {
			t.Errorf("%s is gone at once", p)
		}
	}
	if want := r.clock.Now().Add(time.Minute); !receipt.NextRetire.Equal(want) {
		t.Errorf("NextRetire is %v, want %v", receipt.NextRetire, want)
	}
	if drift := r.apply(h, tree, "docker.io", "localhost_5000_").Drift; len(drift) > 0 {
		t.Errorf("drift %+v; these files are known", drift)
	}
	r.clock.advance(time.Minute)
	if next := r.apply(h, tree, "docker.io", "localhost_5000_").NextRetire; !next.IsZero() {
		t.Errorf("NextRetire is still %v", next)
	}
	for _, p := range []string{"docker.io/ca.crt", "docker.io/deep", "docker.io/link.crt", "localhost:5000"} {
		if r.exists(p) {
			t.Errorf("%s is still there", p)
		}
	}
}

func TestUninstallLeavesWhatSomebodyElseChangedAndNamesIt(t *testing.T) {
	tests := map[string]struct {
		do      func(r *rig)
		left    []string          // paths in the receipt
		there   map[string]string // files that are there afterwards
		notHere []string
	}{
		"our hosts.toml was edited: it stays, with the certificate that it names": {
			do: func(r *rig) {
				data := readFile(r.t, filepath.Join(r.hosts, "new.example.com/hosts.toml"))
				r.write("new.example.com/hosts.toml", "# mine now\n"+string(data))
			},
			left:    []string{"new.example.com/hosts.toml", ca("one")},
			notHere: []string{ca("two"), ".hotplate/tmp"},
		},
		"a file in our directory stays, and the directory with it": {
			do:      func(r *rig) { r.write("new.example.com/notes", "mine") },
			left:    []string{"new.example.com"},
			there:   map[string]string{"new.example.com/notes": "mine"},
			notHere: []string{"new.example.com/hosts.toml", ".hotplate"},
		},
		"a file in an adopted directory is in the restored one": {
			do:      func(r *rig) { r.write("docker.io/notes", "mine") },
			there:   map[string]string{"docker.io/notes": "mine", "docker.io/hosts.toml": "theirs"},
			notHere: []string{".hotplate"},
		},
		"an adopted directory that somebody took back": {
			do: func(r *rig) {
				r.write("docker.io/hosts.toml", "mine again")
			},
			left: []string{"docker.io"},
			there: map[string]string{
				"docker.io/hosts.toml": "mine again", ".hotplate/kept/docker.io/hosts.toml": "theirs",
			},
		},
		"an adopted directory that was removed is put back": {
			do: func(r *rig) {
				if err := os.RemoveAll(filepath.Join(r.hosts, "docker.io")); err != nil {
					r.t.Fatal(err)
				}
			},
			there:   map[string]string{"docker.io/hosts.toml": "theirs"},
			notHere: []string{".hotplate"},
		},
		"a new directory of somebody else": {
			do:      func(r *rig) { r.write("b.example.com/hosts.toml", "mine") },
			there:   map[string]string{"b.example.com/hosts.toml": "mine", "docker.io/hosts.toml": "theirs"},
			notHere: []string{".hotplate", "new.example.com"},
		},
		"a certificate that was edited": {
			do:    func(r *rig) { r.write(ca("one"), "mine") },
			left:  []string{ca("one")},
			there: map[string]string{ca("one"): "mine", "docker.io/hosts.toml": "theirs"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.write("docker.io/hosts.toml", "theirs")
			h := r.start()
			defer r.close(h)
			tree := render(t, mirror("docker.io", "https://one.example.com", "two"),
				mirror("new.example.com", "https://n.example.com", "one"))
			r.apply(h, tree, "docker.io")
			tt.do(r)
			receipt := r.uninstall(h)
			var left []string
			for _, l := range receipt.Left {
				p, err := filepath.Rel(r.hosts, l.Path)
				if err != nil || l.Reason == "" {
					t.Errorf("left %+v: %v", l, err)
				}
				left = append(left, p)
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			for p, want := range tt.there {
				if got := string(readFile(t, filepath.Join(r.hosts, p))); got != want {
					t.Errorf("%s holds %q, want %q", p, got, want)
				}
			}
			for _, p := range tt.notHere {
				if r.exists(p) {
					t.Errorf("%s is still there", p)
				}
			}
			for _, host := range []string{"docker.io", "new.example.com"} {
				if v := view(r.hosts, host); strings.HasPrefix(v, "error") {
					t.Errorf("containerd sees for %s: %s", host, v)
				}
			}
			if _, err := os.Stat(filepath.Join(r.dir, manifestName)); !os.IsNotExist(err) {
				t.Errorf("the manifest is still there: %v", err)
			}
		})
	}
}

func TestUninstallWaitsForTheGraceAndResumes(t *testing.T) {
	r := newRig(t)
	h := r.start()
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	ctx, cancel := context.WithCancel(context.Background())
	cancelled := make(chan error)
	go func() {
		_, err := h.Uninstall(ctx, time.Hour)
		cancelled <- err
	}()
	waitFor(t, "hosts.toml goes first", func() bool { return !r.exists("docker.io") })
	if !r.exists(ca("one")) {
		t.Error("the certificate went before the grace was over")
	}
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	r.close(h)

	h = r.start()
	defer r.close(h)
	if _, err := h.Uninstall(context.Background(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if left := snapshot(t, r.hosts); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestUninstallRemovesOnlyTheDirectoriesThatWereMade(t *testing.T) {
	r := newRig(t)
	top := r.hosts
	r.hosts = filepath.Join(top, "etc", "containerd", "certs.d")
	if err := os.Mkdir(top, 0o700); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, top)
	h := r.start()
	defer r.close(h)
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	r.uninstall(h)
	wantSame(t, "after uninstall", before, snapshot(t, top))

	// It can be installed again, and taken off a node where it never was.
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	r.uninstall(h)
	r.uninstall(h)
	wantSame(t, "after another uninstall", before, snapshot(t, top))
}

func TestTheHostsDirectoryMayBeASymbolicLink(t *testing.T) {
	r := newRig(t)
	real := filepath.Join(r.top, "real")
	if err := errors.Join(os.Mkdir(real, 0o755), os.Symlink("real", r.hosts)); err != nil {
		t.Fatal(err)
	}
	h := r.start()
	defer r.close(h)
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	if !strings.Contains(view(r.hosts, "docker.io"), "one.example.com") {
		t.Errorf("containerd sees %s", view(r.hosts, "docker.io"))
	}
	r.uninstall(h)
	if got := names(snapshot(t, real)); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if target, err := os.Readlink(r.hosts); err != nil || target != "real" {
		t.Errorf("the link is %q, %v", target, err)
	}
}
