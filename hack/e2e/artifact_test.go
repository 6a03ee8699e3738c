//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// The media types of a model as the ModelPack specification has it.
const (
	modelConfig  types.MediaType = "application/vnd.cncf.model.config.v1+json"
	modelWeights types.MediaType = "application/vnd.cncf.model.weight.v1.raw"
)

// artifact is a model in blobs that are no layers: the files as they are.
type artifact struct {
	config, manifest []byte
	blobs            map[v1.Hash]*oddLayer
}

var _ partial.CompressedImageCore = (*artifact)(nil)

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) { return a.config, nil }

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) { return a.manifest, nil }

// MediaType implements partial.CompressedImageCore.
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if l, ok := a.blobs[h]; ok {
		return l, nil
	}
	return nil, fmt.Errorf("no blob %s", h)
}

// newArtifact makes a model of so many files of weights, which no other has.
func newArtifact(t *testing.T, files int) v1.Image {
	t.Helper()
	a := &artifact{blobs: make(map[v1.Hash]*oddLayer)}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	var diffIDs []string
	for range files {
		l := &oddLayer{media: modelWeights, blob: bytes.Repeat([]byte(newName().tag+" weights "), 300_000)}
		l.dgst = hashOf(l.blob)
		l.diff = l.dgst
		a.blobs[l.dgst] = l
		diffIDs = append(diffIDs, l.dgst.String())
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.media, Digest: l.dgst, Size: int64(len(l.blob))})
	}
	var err error
	if a.config, err = json.Marshal(map[string]any{
		"descriptor": map[string]string{"name": "rig", "version": newName().tag},
		"modelfs":    map[string]any{"type": "layers", "diffIds": diffIDs},
		"config":     map[string]string{"architecture": "transformer", "format": "safetensors"},
	}); err != nil {
		t.Fatal(err)
	}
	m.Config = v1.Descriptor{MediaType: modelConfig, Digest: hashOf(a.config), Size: int64(len(a.config))}
	if a.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	img, err := partial.CompressedToImage(a)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestModelArtifact(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: an artifact that is no root filesystem is fetched once and kept, "+
			"and reported as present, not mountable", way))
		mirror := newMirror(t)
		img := mirror.put(t, newArtifact(t, 3), newName())
		n := newNode(t, line, nil)
		n.way = way
		c := n.wanting(img, mirror)
		c.Images[0].Aliases = nil
		n.writeConfig(c)
		n.start()
		n.until(ready, imageIs("model", report.ImageReady, string(modelConfig)), func(r report.NodeReport) string {
			if len(r.Images) != 1 || !r.Images[0].NotMountable {
				return "it is said to be mountable"
			}
			return ""
		})
		n.checkArtifact(img)
		newLedger(mirror).check(n, img, row)
		out := n.run("hotplate", "status", "--state-dir", n.path("state")).out
		if !contains(out, "not mountable", string(modelConfig)) {
			t.Errorf("hotplate status does not say that it is not mountable, and why:\n%s", out)
		}
		n.stop()
		mirror.Reset()
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		if got := mirror.blobs(); got > 0 {
			t.Errorf("%d blobs were asked for again", got)
		}
		n.checkArtifact(img)
		row.saw("%d blobs, kept through a collection of garbage and a restart", len(img.layers)+1)
	})
}

// checkArtifact checks that all blobs of an artifact stay when containerd collects garbage.
func (n *node) checkArtifact(img image) {
	n.t.Helper()
	n.checkLeftovers()
	client, ctx := n.ctrd(), namespaces.WithNamespace(n.t.Context(), "k8s.io")
	lease, err := client.LeasesService().Create(ctx, leases.WithRandomID())
	if err != nil {
		n.t.Fatal(err)
	}
	// To delete a lease like this means to collect garbage now.
	if err := client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		n.t.Fatal(err)
	}
	for _, d := range append([]string{img.digest, img.id}, digests(img.layers)...) {
		if _, err := client.ContentStore().Info(ctx, digest.Digest(d)); err != nil {
			n.t.Errorf("a blob of the artifact: %v", err)
		}
	}
	n.checkContent()
}

func digests(hashes []v1.Hash) (out []string) {
	for _, h := range hashes {
		out = append(out, h.String())
	}
	return out
}

func TestIndexOfManyPlatforms(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: of an index of five platforms only the node's image is fetched", way))
		mirror := newMirror(t)
		var all []v1.Image
		for _, arch := range []string{"arm64", "s390x", "ppc64le", "riscv64"} {
			spec := small()
			spec.Architecture = arch
			all = append(all, build(t, spec))
		}
		ours := odd(t, model())
		img := describe(t, ours, newName())
		var err error
		if img.digest, err = rig.PushIndex(t.Context(), img.under(mirror.inside()), append(all, ours), mirror.login()); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, line, nil)
		n.way = way
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		if others := mirror.otherBlobs(img); len(others) > 0 {
			t.Errorf("blobs of other platforms were fetched: %q", others)
		}
		newLedger(mirror).check(n, img, row)
		n.checkImage(mirror, img, allNames(img)...)
		n.checkSame(newReference(t, line), img)
		n.checkOnly(img)
	})
}
