package configtoml_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rootFile = "/etc/containerd/config.toml"
	hostsDir = "/etc/containerd/certs.d"
)

// versions are one of each kind that rules.go tells apart.
var versions = []string{"1.6.20", "1.7.35", "2.0.14", "2.2.1", "2.2.9", "2.3.4", "2.3.7", "2.4.2"}

func version(t testing.TB, s string) hostconfig.Version {
	t.Helper()
	v, err := hostconfig.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// node returns a node that has these files in /etc/containerd.
func node(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{"etc/containerd": {Mode: fs.ModeDir | 0o755}}
	for name, text := range files {
		out[strings.TrimPrefix(filepath.Join("/etc/containerd", name), "/")] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return out
}

// corpus returns the cases of testdata: the files of /etc/containerd by their name in it.
func corpus(t testing.TB) map[string]map[string]string {
	t.Helper()
	const dir = "testdata/corpus"
	out := map[string]map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name, file, _ := strings.Cut(strings.TrimPrefix(p, dir+"/"), "/")
		if out[name] == nil {
			out[name] = map[string]string{}
		}
		out[name][file] = string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t testing.TB, root fs.FS, v string) *configtoml.Config {
	t.Helper()
	c, err := configtoml.Read(root, rootFile, version(t, v))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
