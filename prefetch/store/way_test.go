package store_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

func plugin(kind, id string, exports map[string]string) *introspection.Plugin {
	return &introspection.Plugin{Type: "io.containerd." + kind + ".v1", ID: id, Exports: exports}
}

func TestWhatClosesTheDirectWay(t *testing.T) {
	content := plugin("content", "content", map[string]string{"root": "/c"})
	overlay := plugin("snapshotter", "overlayfs", map[string]string{"root": "/s"})
	bolt := plugin("metadata", "bolt", map[string]string{"policy": "shared"})
	broken := plugin("snapshotter", "overlayfs", nil)
	broken.InitErr = &rpc.Status{Message: "no such filesystem"}
	s, err := store.New(store.Config{Address: "/nowhere", Log: prefetchtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tc := range []struct {
		version, want string
		plugins       []*introspection.Plugin
	}{
		{"v2.4.2", "", []*introspection.Plugin{content, overlay, bolt}},
		{"1.6.20~ds1", "", []*introspection.Plugin{content, overlay, bolt}},
		{"v2.5.0", "untested version: containerd v2.5.0", []*introspection.Plugin{content, overlay, bolt}},
		{"1.5.9", "untested version", []*introspection.Plugin{content, overlay, bolt}},
		{"unknown", "untested version", []*introspection.Plugin{content, overlay, bolt}},
		{"v2.4.2", "another content store, remote", []*introspection.Plugin{plugin("content", "remote", nil), content, overlay, bolt}},
		{"v2.4.2", "no plugin io.containerd.content.v1.content", []*introspection.Plugin{overlay, bolt}},
		{"v2.4.2", "no such filesystem", []*introspection.Plugin{content, broken, bolt}},
		{"v2.4.2", "does not say where", []*introspection.Plugin{content, plugin("snapshotter", "overlayfs", nil), bolt}},
		{"v2.4.2", `policy is ""`, []*introspection.Plugin{content, overlay, plugin("metadata", "bolt", nil)}},
	} {
		if got := s.ClosedBy(tc.version, tc.plugins...); !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", tc.version, got, tc.want)
		}
	}
}

func TestAProbeThatIsGoneClosesNothing(t *testing.T) {
	if err := store.MayLayOut(filepath.Join(t.TempDir(), "gone")); err == nil || store.IsClosed(err) {
		t.Errorf("its directory is gone: %v", err)
	}
	for cause, want := range map[error]bool{unix.ENOENT: false, unix.ENOSPC: false, unix.EXDEV: true, unix.EROFS: true} {
		if err := store.ProbeFails("link", &os.LinkError{Op: "link", Err: cause}); store.IsClosed(err) != want {
			t.Errorf("%v: closed is %v, want %v", cause, !want, want)
		}
	}
}

func TestIsAway(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{status.Error(codes.Unavailable, "connection refused"), true},
		{fmt.Errorf("read: %w", errdefs.ErrUnavailable), true},
		{fmt.Errorf("ref x locked for 1s: %w", errdefs.ErrUnavailable), false},
		{fmt.Errorf("write: %w", io.EOF), true},
		{errors.New("failed to send write: EOF"), true},
		{status.Error(codes.Unknown, "server is not initialized yet"), true},
		{status.Error(codes.Unimplemented, "unknown service"), false},
		{errdefs.ErrNotFound, false},
		{io.ErrUnexpectedEOF, false},
	} {
		if got := store.IsAway(tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestDirectoriesOfMounts(t *testing.T) {
	type dirs struct {
		Upper  string
		Lowers []string
		OK     bool
	}
	for _, tc := range []struct {
		mounts []mount.Mount
		want   dirs
	}{
		{[]mount.Mount{{Type: "bind", Source: "/s/1/fs", Options: []string{"rw", "rbind"}}}, dirs{"/s/1/fs", nil, true}},
		{[]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
			"index=off", "userxattr", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs",
		}}}, dirs{"/s/3/fs", []string{"/s/2/fs", "/s/1/fs"}, true}},
		{[]mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/s/2/fs:/s/1/fs"}}}, dirs{}},
		{[]mount.Mount{{Type: "erofs", Source: "/s/1"}}, dirs{}},
		{nil, dirs{}},
	} {
		upper, lowers, err := store.Directories(tc.mounts)
		got := dirs{upper, lowers, err == nil}
		if err != nil {
			got = dirs{}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%v (-want +got):\n%s", tc.mounts, d)
		}
	}
}

// TestPlace puts a file where there is nothing, itself, a damaged file, and a good one.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "staged"), filepath.Join(dir, "content", "blobs", "sha256", "abc")
	if err := os.WriteFile(path, []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "content"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, before := range []string{"nothing", "itself", "bad", "good"} {
		if before == "bad" || before == "good" {
			if err := errors.Join(os.Remove(target), os.WriteFile(target, []byte(before), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Place(path, target); err != nil {
			t.Fatalf("where there is %s: %v", before, err)
		}
		a, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(target)
		if err != nil || !os.SameFile(a, b) || b.Mode() != 0o444 {
			t.Errorf("where there is %s: %v, %v", before, b, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("where there is %s, %v is left, %v", before, left, err)
		}
	}
}
