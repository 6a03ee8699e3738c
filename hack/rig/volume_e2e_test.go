//go:build e2e

package rig_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

func TestVolumeFillsUp(t *testing.T) {
	const size = 16 << 20
	v := rigtest.Volume(t, size)
	free, err := v.Free()
	if err != nil || free < size/2 || free > size {
		t.Fatalf("a new volume has %d bytes free, %v", free, err)
	}
	release, err := v.Fill(0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.Path(), "one-more")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write to the full volume: %v, want %v", err, unix.ENOSPC)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Errorf("a write to the volume that was freed: %v", err)
	}
}
