package tools

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryPartHasAModuleOfItsOwn(t *testing.T) {
	b, err := NewBuilder(Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	known := map[string]bool{}
	for _, part := range Parts() {
		known[part.Name] = true
		if part.Module == "" {
			continue
		}
		r, err := b.recipe(t.Context(), part)
		if err != nil {
			t.Errorf("%s: %v", part.Name, err)
			continue
		}
		if other, ok := keys[r.key]; ok {
			t.Errorf("%s and %s have the same key", part.Name, other)
		}
		keys[r.key] = part.Name
	}
	modules, err := filepath.Glob(filepath.Join(b.root, "hack/tools/*/go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		if name := filepath.Base(filepath.Dir(m)); !known[name] {
			t.Errorf("hack/tools/%s is not in Parts", name)
		}
	}
}

func TestRootIsMadeAnewWhenItsPackagesChange(t *testing.T) {
	a, b := rootRecipe(Part{Root: []string{"systemd"}}), rootRecipe(Part{Root: []string{"systemd", "dbus"}})
	if a.key == b.key {
		t.Error("a root with another package has the same key")
	}
	var roots []string
	for _, part := range Parts() {
		if part.Root != nil {
			roots = append(roots, part.Name)
		}
	}
	if len(roots) != 1 || roots[0] != "node-root" {
		t.Errorf("the roots are %q, want node-root", roots)
	}
}

func TestRequiredVersion(t *testing.T) {
	const gomod = `module example.com/x

require example.com/alone v0.1.0

require (
	example.com/a v1.2.3 // indirect
	example.com/a/v2 v2.0.0
)

replace example.com/a => example.com/b v9.9.9
`
	for module, want := range map[string]string{
		"example.com/alone": "v0.1.0", "example.com/a": "v1.2.3", "example.com/a/v2": "v2.0.0", "example.com/b": "",
	} {
		got, err := requiredVersion([]byte(gomod), module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("version of %s is %q, %v, want %q", module, got, err, want)
		}
	}
}

func TestVersionIsLinkedIn(t *testing.T) {
	for line, want := range map[string]string{
		"main.version={version}":  "main.version=1.36.3-rc.0",
		"main.version=v{version}": "main.version=v1.36.3-rc.0",
		"a.major={major}":         "a.major=1",
		"a.minor={minor}":         "a.minor=36",
	} {
		if got := withVersion(line, "v1.36.3-rc.0"); got != want {
			t.Errorf("%s becomes %s, want %s", line, got, want)
		}
	}
}

func TestKeyKnowsWhereAPartEnds(t *testing.T) {
	if key([]byte("ab"), []byte("c")) == key([]byte("a"), []byte("bc")) {
		t.Error("moving a byte from one part to the next does not change the key")
	}
}

func TestOnlyOneBuildsAtATime(t *testing.T) {
	b := &Builder{cache: t.TempDir(), progress: func(string) {}}
	dir := filepath.Join(b.cache, "part-key")
	var mu sync.Mutex
	builds := 0
	r := recipe{part: Part{Name: "part"}, run: func(_ context.Context, dir string) error {
		mu.Lock()
		defer mu.Unlock()
		builds++
		return os.WriteFile(filepath.Join(dir, "program"), []byte("x"), 0o755)
	}}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := b.ensure(t.Context(), r, dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if builds != 1 {
		t.Errorf("built %d times, want once", builds)
	}
	if _, err := os.Stat(filepath.Join(dir, "program")); err != nil {
		t.Error(err)
	}
}

func TestAFailedBuildLeavesNothing(t *testing.T) {
	b := &Builder{cache: t.TempDir(), progress: func(string) {}}
	dir := filepath.Join(b.cache, "part-key")
	cause := errors.New("no compiler")
	r := recipe{part: Part{Name: "part"}, run: func(_ context.Context, dir string) error {
		return errors.Join(cause, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
	}}
	// What a killed build left goes as well.
	if err := os.Mkdir(filepath.Join(b.cache, ".part.tmp-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.ensure(t.Context(), r, dir); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	left, err := os.ReadDir(b.cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != "part.lock" {
		t.Errorf("left behind: %v, want only the lock", left)
	}
}

func TestWaitingForTheLockCanBeCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("a free lock makes us wait") })
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lock(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
}

func TestLookupNamesTheParts(t *testing.T) {
	_, err := Lookup("nothing")
	if err == nil || !strings.Contains(err.Error(), "containerd-2.4") {
		t.Errorf("got %v, want the names that there are", err)
	}
}

func TestDebianRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	for text, want := range map[string]string{
		"ID=debian\nVERSION_CODENAME=bookworm\n":  "bookworm",
		"VERSION_CODENAME=\"noble\"\nID=ubuntu\n": "noble",
		"ID=other\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := debianRelease(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("release in %q is %q, %v, want %q", text, got, err, want)
		}
	}
}
