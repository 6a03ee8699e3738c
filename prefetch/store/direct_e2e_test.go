//go:build e2e

package store_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// openDirect opens a session of a store whose way is direct.
func openDirect(t *testing.T, s prefetch.Store, key string) (prefetch.Way, prefetch.DirectSession) {
	t.Helper()
	way, err := s.Way(t.Context())
	if err != nil || way.Name != prefetch.Direct {
		t.Fatalf("way: %+v, %v", way, err)
	}
	session, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Close(context.WithoutCancel(t.Context()), false); err != nil {
			t.Errorf("close the session: %v", err)
		}
	})
	return way, session.(prefetch.DirectSession)
}

// stage writes a blob into the staging directory.
func stage(t *testing.T, way prefetch.Way, img *prefetchtest.Image, desc ocispec.Descriptor) string {
	t.Helper()
	path := filepath.Join(way.Staging, desc.Digest.Encoded())
	if err := os.WriteFile(path, img.Blobs[desc.Digest], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func diffIDs(t *testing.T, img *prefetchtest.Image) []digest.Digest {
	t.Helper()
	var config ocispec.Image
	if err := json.Unmarshal(img.Blobs[img.Config.Digest], &config); err != nil {
		t.Fatal(err)
	}
	return config.RootFS.DiffIDs
}

func layers(t *testing.T, img *prefetchtest.Image) []prefetch.LayerSnapshot {
	t.Helper()
	var out []prefetch.LayerSnapshot
	ids := diffIDs(t, img)
	for i, d := range ids {
		l := prefetch.LayerSnapshot{Chain: identity.ChainID(ids[:i+1]), DiffID: d}
		if i > 0 {
			l.Parent = identity.ChainID(ids[:i])
		}
		out = append(out, l)
	}
	return out
}

// unpackInto applies a layer the simple way.
func unpackInto(t *testing.T, blob []byte) func(string, []string) error {
	return func(upper string, lowers []string) error {
		var r io.Reader = bytes.NewReader(blob)
		if gz, err := gzip.NewReader(bytes.NewReader(blob)); err == nil {
			r = gz
		}
		_, err := archive.Apply(t.Context(), upper, r, archive.WithParents(lowers),
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout),
			archive.WithFilter(func(*tar.Header) (bool, error) { return true, nil }))
		return err
	}
}

// bringIn does what the engine does with an image on the direct way.
func bringIn(t *testing.T, way prefetch.Way, session prefetch.DirectSession, img *prefetchtest.Image, ref string) {
	t.Helper()
	ctx, chain := t.Context(), layers(t, img)
	for i, desc := range append([]ocispec.Descriptor{img.Manifest, img.Config}, img.Layers...) {
		h, err := session.Hold(ctx, desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		id := digest.Digest("")
		if i >= 2 {
			id = chain[i-2].DiffID
		}
		if err := h.Adopt(ctx, stage(t, way, img, desc), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.Link(ctx, ref, img.Manifest, append([]ocispec.Descriptor{img.Config}, img.Layers...)); err != nil {
		t.Fatal(err)
	}
	for i, l := range chain {
		if err := session.AddSnapshot(ctx, l, unpackInto(t, img.Blobs[img.Layers[i].Digest])); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.Unpacked(ctx, img.Config, img.ChainID); err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(ctx, []string{ref}, img.Manifest); err != nil {
		t.Fatal(err)
	}
}

func TestDirect(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		way, session := openDirect(t, s, "direct")
		t.Logf("%+v", way)
		img := prefetchtest.Build(t, 21, 10_000, 20_000, 3000)
		bringIn(t, way, session, img, "example.com/direct:v1")
		cri := rigtest.CRI(t, d)
		if st, err := cri.ImageStatus(t.Context(), "example.com/direct:v1"); err != nil {
			t.Errorf("CRI: %v, %v", st, err)
		}
	})
}
