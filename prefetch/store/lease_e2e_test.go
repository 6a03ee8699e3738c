//go:build e2e

package store_test

import (
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// TestWhatIsThereStays looks for blobs and snapshots at the moment in which a collection takes them, as another run's end
// does.
func TestWhatIsThereStays(t *testing.T) {
	const races = 200
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		c := connect(t, d)
		_, session := openDirect(t, storeOf(d)(t), "there")
		ctx, kept := inK8s(t), 0
		for i := range races {
			l, err := c.LeasesService().Create(ctx, leases.WithRandomID())
			if err != nil {
				t.Fatal(err)
			}
			held := leases.WithLease(ctx, l.ID)
			data := fmt.Appendf(nil, "blob %d", i)
			desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
			w, err := c.ContentStore().Writer(held, content.WithRef(desc.Digest.String()))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(held, desc.Size, desc.Digest); err != nil {
				t.Fatal(err)
			}
			snapshot := digest.FromString(desc.Digest.String())
			if _, err := c.SnapshotService("overlayfs").Prepare(held, snapshot.String()+"-active", ""); err != nil {
				t.Fatal(err)
			}
			if err := c.SnapshotService("overlayfs").Commit(held, snapshot.String(), snapshot.String()+"-active"); err != nil {
				t.Fatal(err)
			}
			released := make(chan error, 1)
			go func() { released <- c.LeasesService().Delete(ctx, l, leases.SynchronousDelete) }()
			hasBlob, err := session.Has(t.Context(), desc)
			if err != nil {
				t.Error(err)
			}
			hasSnapshot, err := session.HasSnapshot(t.Context(), snapshot)
			if err != nil {
				t.Error(err)
			}
			if err := <-released; err != nil {
				t.Error(err)
			}
			if hasBlob {
				kept++
				if _, err := session.Read(t.Context(), desc, desc.Size); err != nil {
					t.Errorf("race %d: it had the blob: %v", i, err)
				}
			}
			if hasSnapshot {
				kept++
				if _, err := c.SnapshotService("overlayfs").Stat(ctx, snapshot.String()); err != nil {
					t.Errorf("race %d: it had the snapshot: %v", i, err)
				}
			}
		}
		t.Logf("%d of %d were leased before the collection", kept, 2*races)
	})
}
