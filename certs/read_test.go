package certs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hotplate-dev/hotplate/certs"
)

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestReadBundleDirReadsWhatKubeletMounts(t *testing.T) {
	dir := t.TempDir()
	a, b := selfSigned(t, 1, "a"), selfSigned(t, 2, "b")
	write(t, filepath.Join(dir, "..2026_11_21", "a.crt"), a.certPEM())
	write(t, filepath.Join(dir, "..2026_11_21", "b.pem"), slices.Concat(b.certPEM(), a.certPEM()))
	link(t, "..2026_11_21", filepath.Join(dir, "..data"))
	link(t, "..data/a.crt", filepath.Join(dir, "a.crt"))
	link(t, "..data/b.pem", filepath.Join(dir, "b.pem"))
	write(t, filepath.Join(dir, "README"), []byte("not a certificate"))
	write(t, filepath.Join(dir, ".hidden.pem"), []byte("not a certificate"))
	write(t, filepath.Join(dir, "dir.pem", "x"), nil)
	got, err := certs.ReadBundleDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Len() != 2 {
		t.Errorf("got %s, want both certificates once", got)
	}
}

func TestReadErrorsNameFileAndBlock(t *testing.T) {
	dir := t.TempDir()
	a := selfSigned(t, 1, "a")
	good, bad, fifo := filepath.Join(dir, "good.pem"), filepath.Join(dir, "bad.cer"), filepath.Join(dir, "fifo.pem")
	write(t, good, a.certPEM())
	write(t, bad, slices.Concat(a.certPEM(), a.pkcs8()))
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link(t, "nowhere.pem", filepath.Join(dir, "dangling.pem"))
	big := filepath.Join(t.TempDir(), "big.pem")
	write(t, big, make([]byte, certs.MaxSize+1))
	empty := t.TempDir()
	for name, tc := range map[string]struct {
		read func() error
		want []string
	}{
		"all faults of a directory": {
			func() error { _, err := certs.ReadBundleDir(dir); return err },
			[]string{`bad.cer": block 2: it is a private key`, `fifo.pem" is not a regular file`, "dangling.pem"},
		},
		"a directory without certificates": {
			func() error { _, err := certs.ReadBundleDir(empty); return err }, []string{empty, "it holds no *.pem"},
		},
		"a file that is too big": {
			func() error { _, err := certs.ReadBundleFile(big); return err }, []string{"big.pem", "more than"},
		},
		"a file that is not there": {
			func() error { _, err := certs.ReadBundleFile(empty + "/x.pem"); return err }, []string{"x.pem"},
		},
		"both files of a pair": {
			func() error { _, err := certs.ReadKeyPair(empty+"/c.pem", empty+"/k.pem"); return err },
			[]string{"c.pem", "k.pem"},
		},
		"a pair that does not match": {
			func() error { _, err := certs.ReadKeyPair(good, good); return err }, []string{"good.pem", "private key"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.read()
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestReadKeyPair(t *testing.T) {
	dir := t.TempDir()
	a := selfSigned(t, 1, "a")
	write(t, dir+"/c.pem", a.certPEM())
	write(t, dir+"/k.pem", a.pkcs8())
	got, err := certs.ReadKeyPair(dir+"/c.pem", dir+"/k.pem")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Leaf().Equal(a.cert) {
		t.Errorf("got %s", got)
	}
}
