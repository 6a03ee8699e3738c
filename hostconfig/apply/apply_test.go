package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestApplyConvergesAndUninstallRemoves(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)

	one := render(t, mirror("docker.io", "https://one.example.com", "one"),
		mirror("a.example.com:5000", "https://m.example.com", "one"))
	receipt := r.apply(h, one)
	r.wantTree(one)
	want := []string{ca("one"), "a.example.com_5000_", "docker.io"}
	if diff := cmp.Diff(want, receipt.Changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	if !receipt.NextRetire.IsZero() {
		t.Errorf("NextRetire is %v; nothing is to go", receipt.NextRetire)
	}

	two := render(t, mirror("docker.io", "https://two.example.com", "two"))
	receipt = r.apply(h, two)
	both := maps.Clone(two)
	both[ca("one")] = one[ca("one")]
	r.wantTree(both)
	if want := r.clock.Now().Add(time.Minute); !receipt.NextRetire.Equal(want) {
		t.Errorf("NextRetire is %v, want %v", receipt.NextRetire, want)
	}
	r.clock.advance(time.Minute)
	receipt = r.apply(h, two)
	r.wantTree(two)
	if !receipt.NextRetire.IsZero() {
		t.Errorf("NextRetire is %v; nothing is to go", receipt.NextRetire)
	}

	r.uninstall(h)
	if left := snapshot(t, r.hosts); len(left) != 0 {
		t.Errorf("the hosts directory, which hotplate made, is still there: %v", left)
	}
	if diff := cmp.Diff(map[string]bool{"lock": true}, names(snapshot(t, r.dir))); diff != "" {
		t.Errorf("state directory (-want +got):\n%s", diff)
	}
}

// ca is the path of a CA's file.
func ca(name string) string { return hostconfig.SharedDir + "/" + cas()[name].FileName() }

func names(snap map[string]string) map[string]bool {
	out := map[string]bool{}
	for p := range snap {
		if p != "." {
			out[p] = true
		}
	}
	return out
}

func TestApplyingTheSameAgainWritesNothing(t *testing.T) {
	r := newRig(t)
	m := newMachine(t, r.top)
	r.open = m.open
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	r.apply(h, tree)
	hosts, state := snapshot(t, r.hosts), snapshot(t, r.dir)
	m.ops = 0
	if receipt := r.apply(h, tree); len(receipt.Changed) != 0 {
		t.Errorf("changed %v", receipt.Changed)
	}
	if m.ops != 0 {
		t.Errorf("%d operations on disk, want none", m.ops)
	}
	wantSame(t, "hosts directory", hosts, snapshot(t, r.hosts))
	wantSame(t, "state directory", state, snapshot(t, r.dir))
}

func TestACertificateThatIsWantedAgainIsNotRetired(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	one := render(t, mirror("docker.io", "https://one.example.com", "one"))
	two := render(t, mirror("docker.io", "https://one.example.com", "two"))
	r.apply(h, one)
	r.apply(h, two)
	r.clock.advance(59 * time.Second)
	r.apply(h, one)
	r.clock.advance(time.Second)
	r.apply(h, one)
	if !r.exists(ca("one")) || !r.exists(ca("two")) {
		t.Error("a certificate is gone that was named less than a RetireDelay ago")
	}
	r.clock.advance(time.Hour)
	r.apply(h, one)
	r.wantTree(one)
}

func TestAClockThatWasSetBackDoesNotHoldUpRetirement(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "two"))
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	r.apply(h, tree)
	r.clock.advance(-240 * time.Hour)
	receipt := r.apply(h, tree)
	if want := r.clock.Now().Add(time.Minute); !receipt.NextRetire.Equal(want) {
		t.Errorf("NextRetire is %v, want %v", receipt.NextRetire, want)
	}
	r.clock.advance(time.Minute)
	r.apply(h, tree)
	r.wantTree(tree)
}

func TestDriftIsReportedAndRepaired(t *testing.T) {
	const hosts = "docker.io/hosts.toml"
	tests := map[string]struct {
		path string
		kind hostconfig.DriftKind
		do   func(path string) error
	}{
		"a hosts.toml that somebody edits": {
			hosts, hostconfig.Changed,
			func(p string) error { return os.WriteFile(p, []byte("# by other-tool\n"), 0o644) },
		},
		"a hosts.toml that somebody empties":          {hosts, hostconfig.Changed, empty},
		"a hosts.toml that somebody removes":          {hosts, hostconfig.Missing, os.Remove},
		"a hosts.toml that becomes a symbolic link":   {hosts, hostconfig.Changed, replaceByLink},
		"a hosts.toml with another mode":              {hosts, hostconfig.WrongMode, openUp},
		"a certificate that somebody removes":         {ca("one"), hostconfig.Missing, os.Remove},
		"a certificate that becomes a symbolic link":  {ca("one"), hostconfig.Changed, replaceByLink},
		"a host directory that somebody removes":      {hosts, hostconfig.Missing, removeDirOf},
		"the certificates' directory that is removed": {ca("one"), hostconfig.Missing, removeDirOf},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			h := r.start()
			defer r.close(h)
			tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
			r.apply(h, tree)
			if err := tt.do(filepath.Join(r.hosts, tt.path)); err != nil {
				t.Fatal(err)
			}
			receipt := r.apply(h, tree)
			if len(receipt.Drift) != 1 || receipt.Drift[0].Kind != tt.kind || receipt.Drift[0].Path != tt.path {
				t.Errorf("drift is %+v", receipt.Drift)
			}
			r.wantTree(tree)
			r.uninstall(h)
			if left := snapshot(t, r.hosts); len(left) != 0 {
				t.Errorf("left after uninstall: %v", left)
			}
		})
	}
}

func empty(p string) error { return os.Truncate(p, 0) }

func openUp(p string) error { return os.Chmod(p, 0o666) }

func removeDirOf(p string) error { return os.RemoveAll(filepath.Dir(p)) }

func replaceByLink(p string) error {
	return errors.Join(os.Remove(p), os.Symlink("/etc/hostname", p))
}

func TestAHostsDirectoryThatIsReplacedIsFilledAgain(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	r.apply(h, tree)
	if err := os.Rename(r.hosts, r.hosts+".old"); err != nil {
		t.Fatal(err)
	}
	r.apply(h, tree)
	r.wantTree(tree)
}

func TestWhatSomebodyElsePutThereIsAConflictUnlessAdopted(t *testing.T) {
	r := newRig(t)
	r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n")
	h := r.start()
	defer r.close(h)
	tree := pair(t, "one")
	before := snapshot(t, filepath.Join(r.hosts, "docker.io"))
	receipt := r.apply(h, tree)
	if len(receipt.Conflicts) != 1 || receipt.Conflicts[0].Host != "docker.io" || !receipt.Conflicts[0].Blocking {
		t.Errorf("conflicts are %+v", receipt.Conflicts)
	}
	wantSame(t, "foreign directory", before, snapshot(t, filepath.Join(r.hosts, "docker.io")))
	if !r.exists("b.example.com/hosts.toml") {
		t.Error("a conflict has kept another registry from being written")
	}

	receipt = r.apply(h, tree, "docker.io")
	if len(receipt.Conflicts) != 0 {
		t.Errorf("conflicts with adopt: %+v", receipt.Conflicts)
	}
	if got := r.read("docker.io/hosts.toml"); got != string(tree["docker.io/hosts.toml"].Data) {
		t.Errorf("docker.io/hosts.toml holds %s", got)
	}
}

func TestSkippedRegistriesAreLeftAsTheyAre(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	tree := pair(t, "one")
	r.apply(h, tree)
	r.write("docker.io/hosts.toml", "# theirs\n")
	r.write("b.example.com/hosts.toml", "# theirs\n")
	receipt, err := h.Apply(context.Background(), tree, Options{Skip: map[string]bool{"docker.io": true}})
	if err != nil {
		t.Fatal(err)
	}
	if len(receipt.Drift) != 2 {
		t.Errorf("drift is %+v; both are to be reported", receipt.Drift)
	}
	if got := r.read("docker.io/hosts.toml"); got != "# theirs\n" {
		t.Errorf("the skipped file holds %q", got)
	}
	if got := r.read("b.example.com/hosts.toml"); got == "# theirs\n" {
		t.Error("the other file was not repaired")
	}

	// What a skipped hosts.toml names stays, wanted or not.
	r.apply(h, tree)
	two := pair(t, "two")
	for range 3 {
		if _, err := h.Apply(context.Background(), two, Options{Skip: map[string]bool{"docker.io": true}}); err != nil {
			t.Fatal(err)
		}
		r.clock.advance(time.Hour)
	}
	if v := view(r.hosts, "docker.io"); strings.HasPrefix(v, "error") {
		t.Errorf("containerd sees %s", v)
	}
}

func TestHostileNamesAreRefused(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	ok := render(t, mirror("docker.io", "https://one.example.com", "one"))
	for _, p := range []string{
		"../../etc/hosts.toml", "../hosts.toml", "/etc/hosts.toml", "docker.io/../../hosts.toml",
		"docker.io/sub/hosts.toml",
		"nul\x00.example.com/hosts.toml", "sp ace.example.com/hosts.toml", "*.example.com/hosts.toml", "./hosts.toml",
		"docker.io/.", "docker.io/..", "docker.io/", "/hosts.toml", "hosts.toml", "", ".hotplate/tmp", ".hotplate/kept",
		".hotplate/../x", ".hidden/hosts.toml", "docker.io/na\x00me", strings.Repeat("a", 300) + "/hosts.toml",
		"docker.io//hosts.toml", "docker.io\\hosts.toml", "new\nline.example.com/hosts.toml",
	} {
		tree := maps.Clone(ok)
		tree[p] = hostconfig.File{Mode: 0o644, Data: []byte("x")}
		if _, err := h.Apply(context.Background(), tree, Options{}); err == nil {
			t.Errorf("%q: no error from Apply", p)
		}
		dir, _, _ := strings.Cut(p, "/")
		if _, err := h.PublishTemporary(context.Background(), dir, hostconfig.Tree{p: tree[p]}); err == nil {
			t.Errorf("%q: no error from PublishTemporary", p)
		}
	}
	for name, f := range map[string]hostconfig.File{
		"an empty file":          {Mode: 0o644},
		"a set-uid file":         {Mode: 0o644 | fs.ModeSetuid, Data: []byte("x")},
		"a file nobody may read": {Mode: 0o044, Data: []byte("x")},
		"a file that is too big": {Mode: 0o644, Data: make([]byte, hostconfig.MaxFileSize+1)},
	} {
		if _, err := h.Apply(context.Background(), hostconfig.Tree{"docker.io/hosts.toml": f}, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := names(snapshot(t, r.hosts)); len(got) != 0 {
		t.Errorf("the hosts directory holds %v", got)
	}
}

func TestSymbolicLinksInTheWayAreNotFollowed(t *testing.T) {
	tree := func(t *testing.T) hostconfig.Tree {
		return render(t, mirror("docker.io", "https://one.example.com", "one"))
	}
	tests := map[string]struct {
		links     []string // planted before Apply
		conflicts int
		fails     bool
	}{
		"at a host directory":             {links: []string{"docker.io"}, conflicts: 1},
		"at hosts.toml":                   {links: []string{"docker.io/hosts.toml"}, conflicts: 1},
		"at the certificates' directory":  {links: []string{".hotplate"}, conflicts: 1},
		"at the temporary directory":      {links: []string{".hotplate/tmp"}},
		"at the directory of kept things": {links: []string{".hotplate/kept"}},
		"at a certificate":                {links: []string{ca("one")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			target := filepath.Join(r.top, "target")
			for _, name := range []string{"hosts.toml", "1", "docker.io"} {
				file := filepath.Join(target, name)
				err := errors.Join(os.MkdirAll(target, 0o755), os.WriteFile(file, []byte(name), 0o644))
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, l := range tt.links {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(r.hosts, l)), 0o755),
					os.Symlink("../target", filepath.Join(r.hosts, l))); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, target)
			h := r.start()
			defer r.close(h)
			receipt, err := h.Apply(context.Background(), tree(t), Options{})
			if len(receipt.Conflicts) != tt.conflicts {
				t.Errorf("conflicts are %+v, want %d", receipt.Conflicts, tt.conflicts)
			}
			if (err != nil) != tt.fails {
				t.Errorf("error is %v", err)
			}
			if tt.conflicts == 0 && strings.HasPrefix(view(r.hosts, "docker.io"), "https://registry-1") {
				t.Errorf("not applied: containerd sees %s", view(r.hosts, "docker.io"))
			}
			wantSame(t, "what the link points to", before, snapshot(t, target))
			r.uninstall(h)
			wantSame(t, "what the link points to after uninstall", before, snapshot(t, target))
		})
	}
}

func TestOneProcessAtATime(t *testing.T) {
	r := newRig(t)
	h := r.start()
	_, err := Open(context.Background(), r.config())
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v, want ErrLocked", err)
	}
	for _, part := range []string{fmt.Sprintf("process %d", os.Getpid()), r.dir, "stop it"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	r.close(h)
	h = r.start()
	r.close(h)
	if _, err := h.Apply(context.Background(), nil, Options{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Apply after Close: %v, want ErrClosed", err)
	}
}

func TestAStateDirectoryBelongsToOneHostsDirectory(t *testing.T) {
	r := newRig(t)
	h := r.start()
	r.apply(h, render(t, mirror("docker.io", "https://one.example.com", "one")))
	r.close(h)
	cfg := r.config()
	cfg.HostsDir = filepath.Join(r.top, "other")
	if _, err := Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), r.hosts) {
		t.Errorf("Open for another hosts directory: %v, want an error that names %s", err, r.hosts)
	}
}

func TestABrokenManifestIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for name, data := range map[string]string{
		"not JSON":           "{",
		"another version":    `{"version": 2, "hostsDir": "/x"}`,
		"a path that climbs": `{"version": 1, "hostsDir": "/x", "files": {"../etc/x": {"sha256": [], "mode": 420}}}`,
		"null":               `{"version": 1, "hostsDir": "/x", "files": null}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			file := filepath.Join(r.dir, manifestName)
			err := errors.Join(os.MkdirAll(r.dir, 0o700), os.WriteFile(file, []byte(data), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(context.Background(), r.config())
			if !says(err, manifestName, "move it away") {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

func TestALostStateDirectoryClaimsWhatIsAsWanted(t *testing.T) {
	r := newRig(t)
	h := r.start()
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	r.apply(h, tree)
	r.close(h)
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	h = r.start()
	defer r.close(h)
	if receipt := r.apply(h, tree); len(receipt.Changed) != 0 || len(receipt.Conflicts) != 0 {
		t.Errorf("receipt is %+v; everything is there already", receipt)
	}
	r.uninstall(h)
	if left := names(snapshot(t, r.hosts)); len(left) != 0 {
		t.Errorf("left after uninstall: %v", left)
	}
}

func TestCancelledApplyChangesNothingMore(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	if _, err := h.Apply(ctx, tree, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if got := names(snapshot(t, r.hosts)); len(got) != 0 {
		t.Errorf("the hosts directory holds %v", got)
	}
	r.apply(h, tree)
	r.wantTree(tree)
}

// meddler is a disk on which somebody else does something just before a file is created in tempDir.
type meddler struct {
	disk
	once *sync.Once
	do   func()
}

func (d meddler) Create(name string, data []byte, mode fs.FileMode) error {
	if strings.HasPrefix(name, tempDir) {
		d.once.Do(d.do)
	}
	return d.disk.Create(name, data, mode)
}

func TestAForeignDirectoryThatChangesDuringItsAdoptionIsLookedAtAgain(t *testing.T) {
	r := newRig(t)
	r.write("docker.io/hosts.toml", "server = \"https://old.example.com\"\n")
	var once sync.Once
	r.open = func(dir string) (disk, error) {
		d, err := openDisk(dir)
		meddle := func() { r.write("docker.io/hosts.toml", "server = \"https://newer.example.com\"\n") }
		return meddler{disk: d, once: &once, do: meddle}, err
	}
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	opts := Options{Adopt: map[string]bool{"docker.io": true}}
	// Without the certificate, the first file that is created is that of the host directory.
	only := hostconfig.Tree{"docker.io/hosts.toml": tree["docker.io/hosts.toml"]}
	if _, err := h.Apply(context.Background(), only, opts); !says(err, "meanwhile") {
		t.Errorf("error is %v", err)
	}
	r.apply(h, tree, "docker.io")
	r.uninstall(h)
	if got := r.read("docker.io/hosts.toml"); !strings.Contains(got, "newer") {
		t.Errorf("docker.io/hosts.toml holds %q after uninstall", got)
	}
}

func TestWhatComesBetweenACrashAndTheNextStartIsSomebodyElses(t *testing.T) {
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	for at := 0; ; at++ {
		r := newRig(t)
		m := newMachine(t, r.top)
		r.open = m.open
		m.at, m.mishap = at, mishap{dies: true}
		h, err := open(context.Background(), r.config(), r.open)
		if err == nil {
			_, err = h.Apply(context.Background(), tree, Options{})
			r.close(h)
		}
		m.restart()
		if r.exists("docker.io") {
			if at == 0 || err == nil && m.hit != "" {
				t.Fatalf("operation %d: %v", at, err)
			}
			return // published: from here on it is ours
		}
		r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n")
		h = r.start()
		if receipt := r.apply(h, tree); len(receipt.Conflicts) != 1 || len(receipt.Drift) != 0 {
			t.Errorf("killed before operation %d (%s): %+v", at, m.hit, receipt)
		}
		r.uninstall(h)
		r.close(h)
		if got := r.read("docker.io/hosts.toml"); !strings.Contains(got, "theirs") {
			t.Errorf("killed before operation %d (%s): docker.io/hosts.toml holds %q", at, m.hit, got)
		}
	}
}

// TestACopiedFileSystemIsUnderstood copies the hosts directory, as the baking of a node image does. The copies have
// other inode numbers.
func TestACopiedFileSystemIsUnderstood(t *testing.T) {
	for name, m := range map[string]mishap{
		"copied after a crash before the exchange": {dies: true},
		"copied after a crash after the exchange":  {dies: true, happens: true},
	} {
		t.Run(name, func(t *testing.T) {
			tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
			for at := 0; ; at++ {
				r := newRig(t)
				r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n")
				r.write("docker.io/ca.crt", "theirs")
				original := snapshot(t, r.hosts)
				machine := newMachine(t, r.top)
				r.open = machine.open
				machine.at, machine.mishap = at, m
				h, err := open(context.Background(), r.config(), r.open)
				if err == nil {
					_, err = h.Apply(context.Background(), tree, Options{Adopt: map[string]bool{"docker.io": true}})
					r.close(h)
				}
				if err == nil {
					t.Fatal("there was no exchange")
				}
				machine.restart()
				if !strings.HasPrefix(machine.hit, "exchange") {
					continue
				}
				old := r.hosts + ".old"
				if err := os.Rename(r.hosts, old); err != nil {
					t.Fatal(err)
				}
				if err := exec.CommandContext(t.Context(), "cp", "-a", old, r.hosts).Run(); err != nil {
					t.Fatal(err)
				}
				h = r.start()
				defer r.close(h)
				if receipt := r.uninstall(h); len(receipt.Left) > 0 {
					t.Errorf("left %+v", receipt.Left)
				}
				machine.flush()
				got := snapshot(t, r.hosts)
				if diff := cmp.Diff(names(original), names(got)); diff != "" {
					t.Errorf("after uninstall (-want +got):\n%s", diff)
				}
				if !strings.Contains(got["docker.io/hosts.toml"], "theirs") {
					t.Errorf("after uninstall: %v", got)
				}
				return
			}
		})
	}
}
