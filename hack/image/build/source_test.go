package build_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

// git runs git in dir, with nothing of the user's configuration.
func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_COMMITTER_DATE=1700000000 +0200", "GIT_AUTHOR_DATE=1600000000 +0000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func TestFromGit(t *testing.T) {
	dir := t.TempDir()
	if _, err := build.FromGit(t.Context(), dir); err == nil {
		t.Error("a directory without git is no error")
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := func(version string, modified bool) build.Source {
		t.Helper()
		s, err := build.FromGit(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile("^"+version+"$").MatchString(s.Version) || s.Modified != modified {
			t.Errorf("version %q, modified %t, want %q, %t", s.Version, s.Modified, version, modified)
		}
		return s
	}
	write("a")
	write(".gitignore")
	git(t, dir, "init", "-q")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "one")
	s := source("[0-9a-f]{12}", false)
	if want := time.Unix(1700000000, 0).UTC(); !s.Time.Equal(want) || s.Time.Location() != time.UTC {
		t.Errorf("the time is %s, want the commit's, %s", s.Time, want)
	}
	if s.Version != s.Revision[:12] || len(s.Revision) != 40 {
		t.Errorf("the revision is %q", s.Revision)
	}
	git(t, dir, "tag", "v0.1.0")
	source(`v0\.1\.0`, false)
	write("new.go") // git describe --dirty does not count it, the compiler does
	source(`v0\.1\.0-dirty`, true)
	git(t, dir, "add", "new.go")
	git(t, dir, "commit", "-q", "-m", "two")
	source(`v0\.1\.0-1-g[0-9a-f]{12}`, false)
}

func TestParseEpoch(t *testing.T) {
	for _, text := range []string{"", "-1", "1.5", "yesterday"} {
		if got, err := build.ParseEpoch(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
	if got, err := build.ParseEpoch("1700000000"); err != nil || got.Format(time.RFC3339) != "2023-11-14T22:13:20Z" {
		t.Errorf("%s, %v", got, err)
	}
}
