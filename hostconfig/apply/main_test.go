package apply

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		applyForever(dir)
		return
	}
	// containerd's loader copies the system's roots for every host that has a CA. Without them it loads faster.
	for name, value := range map[string]string{"SSL_CERT_FILE": os.DevNull, "SSL_CERT_DIR": "/nonexistent"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	// containerd's parser tells of foreign files that are broken on purpose.
	if err := log.SetLevel("panic"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// memDir returns a directory in memory where there is one: these tests sync tens of thousands of times, and what they
// check does not depend on the disk.
func memDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "hotplate-apply-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// clock is a fake time that moves only when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// newCA makes a CA certificate named name.
func newCA(t testing.TB, name string) certs.Bundle {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := certs.ParseBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cas are made once: what is tested does not depend on them.
var cas = sync.OnceValue(func() map[string]certs.Bundle {
	t := &panicTB{}
	return map[string]certs.Bundle{"one": newCA(t, "one"), "two": newCA(t, "two")}
})

type panicTB struct{ testing.TB }

func (*panicTB) Helper()           {}
func (*panicTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// mirror is the desired state of one registry that has one mirror with a CA of its own.
func mirror(host, url, ca string) hostconfig.Registry {
	return hostconfig.Registry{
		Host: host, Upstream: hostconfig.Deny,
		Mirrors: []hostconfig.Mirror{{URL: url, TLS: hostconfig.TLS{CA: cas()[ca]}}},
	}
}

// pair is the desired state of two registries with one CA.
func pair(t testing.TB, ca string) hostconfig.Tree {
	t.Helper()
	return render(t, mirror("docker.io", "https://"+ca+".example.com", ca),
		mirror("b.example.com", "https://b2.example.com", ca))
}

func render(t testing.TB, regs ...hostconfig.Registry) hostconfig.Tree {
	t.Helper()
	tree, err := hostconfig.Render(regs, hostconfig.Version{})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// view is what containerd's own parser makes of a registry: the hosts in order, with what they trust.
func view(dir, host string) string {
	hosts, err := dockerconfig.ConfigureHosts(context.Background(), dockerconfig.HostOptions{
		HostDir: dockerconfig.HostDirFromRoot(dir),
	})(host)
	if err != nil {
		return "error: " + strings.ReplaceAll(err.Error(), dir, "")
	}
	var out []string
	for _, h := range hosts {
		out = append(out, fmt.Sprintf("%s://%s%s caps=%d", h.Scheme, h.Host, h.Path, h.Capabilities))
	}
	return strings.Join(out, ", ")
}

// rig is a host for a test.
type rig struct {
	t          testing.TB
	top        string
	hosts, dir string // hosts directory, state directory
	clock      *clock
	open       opener
}

func newRig(t testing.TB) *rig {
	top := memDir(t)
	return &rig{
		t: t, top: top, hosts: filepath.Join(top, "certs.d"), dir: filepath.Join(top, "state"), clock: newClock(),
		open: openDisk,
	}
}

func (r *rig) config() Config {
	return Config{HostsDir: r.hosts, StateDir: r.dir, RetireDelay: time.Minute, Now: r.clock.Now, Log: quietLog()}
}

func (r *rig) start() *Host {
	r.t.Helper()
	h, err := open(context.Background(), r.config(), r.open)
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	return h
}

func (r *rig) close(h *Host) {
	r.t.Helper()
	if err := h.Close(); err != nil {
		r.t.Fatalf("close: %v", err)
	}
}

func (r *rig) apply(h *Host, tree hostconfig.Tree, adopt ...string) Receipt {
	r.t.Helper()
	opts := Options{Adopt: map[string]bool{}}
	for _, dir := range adopt {
		opts.Adopt[dir] = true
	}
	receipt, err := h.Apply(context.Background(), tree, opts)
	if err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	return receipt
}

// blocking are the conflicts for which something was not written.
func blocking(receipt Receipt) []hostconfig.Conflict {
	return slices.DeleteFunc(slices.Clone(receipt.Conflicts), func(c hostconfig.Conflict) bool { return !c.Blocking })
}

func (r *rig) uninstall(h *Host) Receipt {
	r.t.Helper()
	receipt, err := h.Uninstall(context.Background(), 0)
	if err != nil {
		r.t.Fatalf("uninstall: %v", err)
	}
	return receipt
}

// write puts a foreign file into the hosts directory.
func (r *rig) write(name, data string) {
	r.t.Helper()
	path := filepath.Join(r.hosts, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) exists(name string) bool {
	r.t.Helper()
	_, err := os.Lstat(filepath.Join(r.hosts, name))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return err == nil
}

// wantTree checks that the hosts directory holds exactly tree, with its modes.
func (r *rig) wantTree(tree hostconfig.Tree) {
	r.t.Helper()
	want := map[string]string{}
	for p, f := range tree {
		want[p] = fmt.Sprintf("%v %x", f.Mode, sha256.Sum256(f.Data))
		want[filepath.Dir(p)] = (fs.ModeDir | 0o755).String()
	}
	got := map[string]string{}
	walk(r.t, r.hosts, func(p string, info fs.FileInfo) {
		got[p] = info.Mode().String()
		if info.Mode().IsRegular() {
			got[p] += fmt.Sprintf(" %x", sha256.Sum256(readFile(r.t, filepath.Join(r.hosts, p))))
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("hosts directory (-want +got):\n%s", diff)
	}
}

// read returns the content of a file in the hosts directory.
func (r *rig) read(name string) string {
	r.t.Helper()
	return string(readFile(r.t, filepath.Join(r.hosts, name)))
}

// says reports whether err says all of parts.
func says(err error, parts ...string) bool {
	return err != nil && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(err.Error(), p) })
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// walk visits everything below dir, by its path in it.
func walk(t testing.TB, dir string, visit func(p string, info fs.FileInfo)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		visit(rel, info)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// snapshot describes everything in dir byte for byte: types, modes, owners, times, contents and link targets. Of dir
// itself it tells only whether it exists.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if _, err := os.Stat(dir); err == nil {
		out["."] = "exists"
	}
	walk(t, dir, func(p string, info fs.FileInfo) {
		st := info.Sys().(*syscall.Stat_t)
		s := fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid, st.Gid, info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			s += fmt.Sprintf(" links=%d %q", st.Nlink, readFile(t, filepath.Join(dir, p)))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(filepath.Join(dir, p))
			if err != nil {
				t.Fatal(err)
			}
			s += " -> " + target
		}
		out[p] = s
	})
	return out
}

func wantSame(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	if !maps.Equal(want, got) {
		t.Errorf("%s (-want +got):\n%s", what, cmp.Diff(want, got))
	}
}

// waitFor waits until ok. The time is a bound for a test that hangs, not something that is measured.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}
