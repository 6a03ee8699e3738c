package build

import (
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is the same in every image.
const (
	title     = "hotplate"
	sourceURL = "https://github.com/hotplate-dev/hotplate"
	licence   = "Apache-2.0"
)

// fileLayer is the layer of one file.
type fileLayer struct {
	name  string
	layer v1.Layer
}

// labels are on the image, on its manifests and on the index, so that whoever has one of them knows what it is.
func (s Source) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.created":  s.Time.UTC().Format(time.RFC3339),
		"org.opencontainers.image.licenses": licence,
		"org.opencontainers.image.revision": s.Revision,
		"org.opencontainers.image.source":   sourceURL,
		"org.opencontainers.image.title":    title,
		"org.opencontainers.image.version":  s.Version,
	}
}

// assemble makes the image of one platform.
func (b *builder) assemble(layers []fileLayer, p v1.Platform) (v1.Image, error) {
	created := v1.Time{Time: b.Source.Time.UTC()}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var adds []mutate.Addendum
	for _, l := range layers {
		adds = append(adds, mutate.Addendum{
			Layer: l.layer, MediaType: types.OCILayer, History: v1.History{Created: created, CreatedBy: "/" + l.name},
		})
	}
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant, cfg.Created = p.OS, p.Architecture, p.Variant, created
	cfg.Config = v1.Config{
		// The agent is root, without any capability where it needs none. The chart gives the coordinator another user.
		User:       "0:0",
		Env:        []string{"PATH=/"},
		Entrypoint: []string{"/" + path.Base(b.Programs[0])},
		WorkingDir: "/",
		Labels:     b.Source.labels(),
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, b.Source.labels()).(v1.Image), nil
}

// index lists the images of all platforms.
func (b *builder) index(variants []variant) v1.ImageIndex {
	var adds []mutate.IndexAddendum
	for _, v := range variants {
		adds = append(adds, mutate.IndexAddendum{Add: v.image, Descriptor: v1.Descriptor{Platform: &v.platform}})
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...)
	return mutate.Annotations(index, b.Source.labels()).(v1.ImageIndex)
}
