//go:build e2e

package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// TestAFileThatNobodyRegisteredIsTheBlob has what a crash within Adopt leaves.
func TestAFileThatNobodyRegisteredIsTheBlob(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		_, session := openDirect(t, s, "unregistered")
		img := prefetchtest.Build(t, 46, 100_000)
		layer := img.Layers[0]
		path := blobPath(d, layer)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, img.Blobs[layer.Digest], 0o444); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Hold(t.Context(), layer, nil); !errors.Is(err, prefetch.ErrPresent) {
			t.Errorf("%v, want ErrPresent", err)
		}
		if has, err := session.Has(t.Context(), layer); !has || err != nil {
			t.Errorf("Has says %v, %v", has, err)
		}
		if err := session.Close(t.Context(), false); err != nil {
			t.Error(err)
		}
		checkNothingLeft(t, d)
	})
}
