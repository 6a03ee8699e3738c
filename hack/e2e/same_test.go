//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// newReference starts a containerd in which hotplate never was, to compare with.
func newReference(t *testing.T, line string) *node {
	t.Helper()
	n := newNode(t, line, nil)
	mirror := newMirror(t)
	rigtest.Mirror{
		Host: mirrored, URL: mirror.URL(), Path: project, CA: mirror.ca.PEM(), Username: user, Password: password,
	}.Write(t, n.hosts())
	return n
}

// checkSame checks that the image is, snapshot by snapshot, what containerd's own CRI pull makes of it in the reference:
// chain IDs, parents, and every file with mode, owner, time, extended attributes, device and hard links.
func (n *node) checkSame(reference *node, img image) {
	n.t.Helper()
	reference.mustPull(img.under(mirrored), img)
	want, got := reference.snapshots(img), n.snapshots(img)
	if diff := cmp.Diff(names(want), names(got)); diff != "" {
		n.t.Fatalf("not the snapshots that containerd makes (-containerd +hotplate):\n%s", diff)
	}
	yesterday := time.Now().Add(-24 * time.Hour) // no file of an image is so new
	for i := range want {
		a, err := rig.Tree(want[i].dir)
		if err != nil {
			n.t.Fatal(err)
		}
		b, err := rig.Tree(got[i].dir)
		if err != nil {
			n.t.Fatal(err)
		}
		rig.MaskTimes(a, yesterday)
		rig.MaskTimes(b, yesterday)
		if diff := rig.DiffTrees(a, b); diff != "" {
			n.t.Errorf("layer %d is not as containerd makes it (-containerd +hotplate):\n%s", i, diff)
		}
	}
}

// snapshot is one layer of an unpacked image.
type snapshot struct {
	chain, parent string
	dir           string // its own files, without those below
}

func names(list []snapshot) (out []string) {
	for _, s := range list {
		out = append(out, s.chain+" on "+s.parent)
	}
	return out
}

// snapshots lists the snapshots of an image, the topmost first.
func (n *node) snapshots(img image) (list []snapshot) {
	n.t.Helper()
	ctx := namespaces.WithNamespace(n.t.Context(), "k8s.io")
	service := n.ctrd().SnapshotService("overlayfs")
	top := n.chain(ctx, img)
	for chain := top; chain != ""; {
		info, err := service.Stat(ctx, chain)
		if err != nil {
			n.t.Fatalf("snapshot %s: %v", chain, err)
		}
		if info.Kind != snapshots.KindCommitted {
			n.t.Errorf("snapshot %s is %s", chain, info.Kind)
		}
		list = append(list, snapshot{chain: chain, parent: info.Parent})
		chain = info.Parent
	}
	look := fmt.Sprintf("e2e-look-%d", seeds.Add(1))
	// Without the label, containerd's collector may be faster than we are.
	mounts, err := service.View(ctx, look, top, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := service.Remove(ctx, look); err != nil {
		n.t.Fatal(err)
	}
	dirs := lowers(mounts)
	if len(dirs) != len(list) {
		n.t.Fatalf("%d snapshots, but containerd mounts %q", len(list), dirs)
	}
	for i := range list {
		list[i].dir = dirs[i]
	}
	return list
}

// lowers are the directories of a read-only mount, the topmost first. A single one is a bind mount.
func lowers(mounts []mount.Mount) []string {
	for _, m := range mounts {
		for _, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(dirs, ":")
			}
		}
	}
	if len(mounts) == 1 {
		return []string{mounts[0].Source}
	}
	return nil
}

// chain is the name of the image's last snapshot, from the config in the content store.
func (n *node) chain(ctx context.Context, img image) string {
	n.t.Helper()
	store := n.ctrd().ContentStore()
	ra, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: digest.Digest(img.id)})
	if err != nil {
		n.t.Fatal(err)
	}
	defer ra.Close()
	data := make([]byte, ra.Size())
	if _, err := ra.ReadAt(data, 0); err != nil {
		n.t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		n.t.Fatal(err)
	}
	return identity.ChainID(config.RootFS.DiffIDs).String()
}

// checkOnly checks that there is nothing but these images: no snapshot that is not one of theirs or not committed, no
// ingest, no lease, and nothing of hotplate's own beside containerd's. containerd collects garbage a moment later.
func (n *node) checkOnly(images ...image) {
	n.t.Helper()
	n.checkLeftovers()
	want := make(map[string]bool)
	for _, img := range images {
		for _, s := range n.snapshots(img) {
			want[s.chain] = true
		}
	}
	ctx := namespaces.WithNamespace(n.t.Context(), "k8s.io")
	service := n.ctrd().SnapshotService("overlayfs")
	waitFor(n.t, "no snapshot but the images' to be left", func() string {
		var others []string
		err := service.Walk(ctx, func(_ context.Context, s snapshots.Info) error {
			if s.Kind != snapshots.KindCommitted || !want[s.Name] {
				others = append(others, fmt.Sprintf("%s %s", s.Kind, s.Name))
			}
			return nil
		})
		if err != nil && !errdefs.IsNotFound(err) {
			return err.Error()
		}
		return strings.Join(others, "\n")
	})
	waitFor(n.t, "nothing of hotplate's own to be left beside containerd's", func() string {
		return strings.Join(n.ownFiles(), "\n")
	})
}
