package main

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root is the root of the repository.
const root = "../.."

// smallRepository is a repository of small programs with the names of those of the image. The test's working directory
// is changed to it.
func smallRepository(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	copies := map[string]string{"go.mod": filepath.Join(root, "go.mod"), "go.sum": filepath.Join(root, "go.sum")}
	for _, program := range build.Programs() {
		copies[program+"/main.go"] = "build/testdata/small/main.go"
	}
	for to, from := range copies {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(dir, to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("/bin/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	git(t, "init", "-q")
	git(t, "add", "-A")
	git(t, "commit", "-q", "-m", "one")
	git(t, "tag", "v0.1.0")
}

func git(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)
	if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// digest is that of the image in bin/image.
func digest(t *testing.T) string {
	t.Helper()
	r, err := build.Load("bin/image")
	if err != nil {
		t.Fatal(err)
	}
	return r.Digest.String()
}

func TestBuildExpectAndPush(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	smallRepository(t)
	if err := run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	built := digest(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/hotplate:v0.1.0"
	has := func() bool {
		res, err := server.Client().Get(server.URL + "/v2/hotplate/manifests/" + built)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	other := "sha256:" + strings.Repeat("0", 64)
	err := run(t.Context(), []string{"-insecure", "-push", ref, "-expect", other})
	if err == nil || !strings.Contains(err.Error(), built) || has() {
		t.Errorf("with another digest than expected: %v, pushed: %t", err, has())
	}
	if err := run(t.Context(), []string{"-insecure", "-push", ref, "-expect", built}); err != nil || !has() {
		t.Errorf("with the digest that is expected: %v, pushed: %t", err, has())
	}
	// Changes count, though the commit is the same.
	if err := os.WriteFile("cmd/hotplate/more.go", []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-expect", built}); err == nil {
		t.Error("an image of changed files is as expected")
	}
}

func TestSource(t *testing.T) {
	smallRepository(t)
	fromGit, err := build.FromGit(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	got, err := options{}.source(t.Context(), "")
	if err != nil || got != fromGit || got.Version != "v0.1.0" {
		t.Errorf("without flags: %+v, %v", got, err)
	}
	got, err = options{version: "v9"}.source(t.Context(), "1700000000")
	if err != nil || got.Version != "v9" || got.Revision != fromGit.Revision || got.Time.Unix() != 1700000000 {
		t.Errorf("with a version and a time: %+v, %v", got, err)
	}
	t.Chdir(t.TempDir())
	if _, err := (options{version: "v9"}).source(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("without git: %v", err)
	}
	commit := strings.Repeat("a", 40)
	got, err = options{version: "v9", revision: commit}.source(t.Context(), "1700000000")
	if err != nil || got.Version != "v9" || got.Revision != commit {
		t.Errorf("without git, all said: %+v, %v", got, err)
	}
	if _, err := (options{}).source(t.Context(), "yesterday"); err == nil {
		t.Error("a wrong SOURCE_DATE_EPOCH is no error")
	}
}

func TestWrongFlags(t *testing.T) {
	for _, args := range [][]string{{"-nonsense"}, {"push"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q is no error", args)
		}
	}
}

// TestProgramsAreAllThereAre fails when a program was added to cmd and not to the image.
func TestProgramsAreAllThereAre(t *testing.T) {
	out := goList(t, "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./cmd/...")
	const module = "github.com/hotplate-dev/hotplate/"
	var want []string
	for line := range strings.FieldsSeq(out) {
		if name := strings.TrimPrefix(line, module); name != "cmd/kubectl-hotplate" { // it is for people's own machines
			want = append(want, name)
		}
	}
	if got := slices.Sorted(slices.Values(build.Programs())); !slices.Equal(got, want) {
		t.Errorf("the image has %v, the programs of the repository are %v", got, want)
	}
	if first := path.Base(build.Programs()[0]); first != "hotplate-agent" {
		t.Errorf("the image starts %s", first)
	}
}

// TestProgramsDoNotHaveTheRoots keeps what only the image needs out of the programs.
func TestProgramsDoNotHaveTheRoots(t *testing.T) {
	for dep := range strings.FieldsSeq(goList(t, "-deps", "./cmd/...")) {
		if strings.HasPrefix(dep, "golang.org/x/crypto/x509roots") || strings.Contains(dep, "/hotplate/hack/") {
			t.Errorf("a program imports %s", dep)
		}
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return string(out)
}
