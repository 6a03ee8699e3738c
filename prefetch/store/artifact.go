package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// An artifact has no image record: CRI takes every record for an image and its config for the image's ID, so that all
// artifacts with the empty config would be one image to the kubelet, which would offer it to pods and remove it as one.
// What its names point at is kept by labels instead: containerd's own, which makes it a root for the garbage collector
// (core/metadata/gc.go, labelGCRoot, 2.4.2), and ours, which say who wants it.
const (
	rootLabel = "containerd.io/gc.root"
	// rootOurs is what its value begins with where we have set it. Others' have a time or anything, and are left as they are.
	rootOurs = "hotplate "
	// With owner and key behind it; its value is the manifest and the names.
	keepLabel = "hotplate.dev/artifact."
	// With the owner behind it; its value is the manifest and the bytes that the pin keeps.
	keepPinLabel = "hotplate.dev/artifact-pin."
)

// artifact is the target of an artifact's names with our labels.
type artifact struct {
	target  digest.Digest
	keeps   []keep
	pin     *prefetch.Pin
	foreign bool // another owner has labels on it, too
	root    bool // containerd's label is hotplate's
}

// keep is what one wanted image says of an artifact.
type keep struct {
	key      string
	manifest digest.Digest
	names    []string
}

func (s *Store) keepLabel(key string) string { return keepLabel + s.cfg.Owner + "." + key }
func (s *Store) keepPinLabel() string        { return keepPinLabel + s.cfg.Owner }

// artifacts lists those with labels of ours.
func (s *Store) artifacts(ctx context.Context) (list []artifact, err error) {
	err = s.content().Walk(ctx, func(info content.Info) error {
		if a := s.parseArtifact(info); len(a.keeps) > 0 || a.pin != nil {
			list = append(list, a)
		}
		return nil
	}, fmt.Sprintf("labels.%q", rootLabel))
	if err != nil {
		return nil, fmt.Errorf("look for artifacts: %w", err)
	}
	return list, nil
}

func (s *Store) parseArtifact(info content.Info) artifact {
	a := artifact{target: info.Digest, root: strings.HasPrefix(info.Labels[rootLabel], rootOurs)}
	for label, value := range info.Labels {
		words := strings.Fields(value)
		key, ours := strings.CutPrefix(label, s.keepLabel(""))
		switch {
		case len(words) < 2: // none of those below
		case ours:
			a.keeps = append(a.keeps, keep{key: key, manifest: digest.Digest(words[0]), names: words[1:]})
		case label == s.keepPinLabel():
			size, _ := strconv.ParseInt(words[1], 10, 64) // 0 is for what is not known
			a.pin = &prefetch.Pin{ImageID: digest.Digest(words[0]), Target: info.Digest, Size: size}
		case strings.HasPrefix(label, keepLabel), strings.HasPrefix(label, keepPinLabel):
			a.foreign = true
		}
	}
	return a
}

// is tells whether the artifact has this manifest.
func (a artifact) is(manifest digest.Digest) bool {
	return a.pin != nil && a.pin.ImageID == manifest ||
		slices.ContainsFunc(a.keeps, func(k keep) bool { return k.manifest == manifest })
}

// named tells whether the artifact is kept under this name.
func (a artifact) named(name string) bool {
	return slices.ContainsFunc(a.keeps, func(k keep) bool { return slices.Contains(k.names, name) })
}

// artifactOf finds the one with this manifest; its target is empty if there is none.
func (s *Store) artifactOf(ctx context.Context, manifest digest.Digest) (artifact, error) {
	list, err := s.artifacts(ctx)
	if i := slices.IndexFunc(list, func(a artifact) bool { return a.is(manifest) }); i >= 0 {
		return list[i], err
	}
	return artifact{}, err
}

// label changes labels of content; those without a value go.
func (s *Store) label(ctx context.Context, d digest.Digest, with map[string]string) error {
	var fields []string
	for k := range with {
		fields = append(fields, "labels."+k)
	}
	if _, err := s.content().Update(ctx, content.Info{Digest: d, Labels: with}, fields...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// letGo takes those of our labels off that which chooses, and with the last of anyone's, containerd's if we have set it.
func (s *Store) letGo(ctx context.Context, a artifact, pin bool, which func(key string) bool) error {
	off, left := make(map[string]string), a.foreign
	for _, k := range a.keeps {
		if which(k.key) {
			off[s.keepLabel(k.key)] = ""
		} else {
			left = true
		}
	}
	if a.pin != nil && pin {
		off[s.keepPinLabel()] = ""
	}
	if len(off) == 0 {
		return nil
	}
	if left = left || a.pin != nil && !pin; !left && a.root {
		off[rootLabel] = ""
	}
	if err := s.label(ctx, a.target, off); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// Keep implements prefetch.Session. A tag that has moved is taken from what it pointed at before.
func (s *session) Keep(ctx context.Context, names []string, target ocispec.Descriptor, manifest digest.Digest) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	list, err := s.store.artifacts(ctx)
	if err != nil {
		return err
	}
	for _, a := range list {
		if a.target != target.Digest {
			if err := s.store.letGo(ctx, a, false, func(key string) bool { return key == s.key }); err != nil {
				return err
			}
		}
	}
	info, err := s.store.content().Info(ctx, target.Digest)
	if err != nil {
		return fmt.Errorf("look for the labels of %s: %w", target.Digest, err)
	}
	with := map[string]string{s.store.keepLabel(s.key): strings.Join(append([]string{manifest.String()}, names...), " ")}
	if info.Labels[rootLabel] == "" || s.store.parseArtifact(info).root {
		with[rootLabel] = rootOurs + time.Now().UTC().Format(time.RFC3339)
	}
	return s.store.label(ctx, target.Digest, with)
}

// sweepArtifacts lets go of those that nobody wants any more. What is pinned is Unpin's.
func (s *Store) sweepArtifacts(ctx context.Context, want func(key string) bool) error {
	list, err := s.artifacts(ctx)
	errs := []error{err}
	for _, a := range list {
		if a.pin == nil {
			errs = append(errs, s.letGo(ctx, a, false, func(key string) bool { return !want(key) }))
		}
	}
	return errors.Join(errs...)
}

// lookAtArtifact is what State says of an artifact, whose manifest is doc.
func (s *Store) lookAtArtifact(ctx context.Context, q prefetch.Query, doc document, st *prefetch.State) error {
	st.Artifact, st.Whole, st.PinSupported = doc.artifact(), true, true
	for _, d := range append([]ocispec.Descriptor{doc.Config}, doc.Layers...) {
		_, err := s.content().Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			st.Whole = false
			break
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", d.Digest, err)
		}
	}
	list, err := s.artifacts(ctx)
	if err != nil {
		return err
	}
	clear(st.Names) // an image record keeps the content only until somebody removes the image
	for _, a := range list {
		for _, name := range q.Names {
			if a.named(name) {
				st.Names[name] = a.target
			}
		}
		st.Pinned = st.Pinned || a.pin != nil && a.target == st.Target
	}
	return nil
}

// artifact is the type of the artifact that the manifest describes, or empty for an image.
func (d document) artifact() string {
	if images.IsConfigType(d.Config.MediaType) || d.Config.MediaType == "" {
		return ""
	}
	if d.ArtifactType != "" {
		return d.ArtifactType
	}
	return d.Config.MediaType
}

// targetOf is what an artifact's name points at, or empty.
func (s *Store) targetOf(ctx context.Context, name string) (digest.Digest, error) {
	list, err := s.artifacts(ctx)
	if i := slices.IndexFunc(list, func(a artifact) bool { return a.named(name) }); i >= 0 {
		return list[i].target, nil
	}
	return "", err
}

// pinArtifact marks an artifact as pinned.
func (s *Store) pinArtifact(ctx context.Context, manifest digest.Digest, size int64) error {
	a, err := s.artifactOf(ctx, manifest)
	if err != nil {
		return err
	}
	if a.target == "" {
		return fmt.Errorf("%w: neither image nor artifact", errdefs.ErrNotFound)
	}
	return s.label(ctx, a.target, map[string]string{s.keepPinLabel(): fmt.Sprintf("%s %d", manifest, size)})
}

// unpinArtifact takes our pin off an artifact, if it is one. The rest of our labels keeps it until a sweep.
func (s *Store) unpinArtifact(ctx context.Context, manifest digest.Digest) error {
	a, err := s.artifactOf(ctx, manifest)
	if err != nil || a.target == "" {
		return err
	}
	return s.letGo(ctx, a, true, func(string) bool { return false })
}

// removeArtifact lets go of an artifact and has containerd collect it. False means that it is none of ours.
func (s *Store) removeArtifact(ctx context.Context, manifest digest.Digest) (bool, error) {
	a, err := s.artifactOf(ctx, manifest)
	if err != nil || a.target == "" {
		return false, err
	}
	if err := s.letGo(ctx, a, true, func(string) bool { return true }); err != nil {
		return true, err
	}
	return true, s.collect(ctx)
}

// collect waits for a garbage collection, as CRI does when it removes an image (internal/cri/server/images/image_remove.go,
// 2.4.2). It is the end of a lease that brings one about.
func (s *Store) collect(ctx context.Context) error {
	manager := s.client.LeasesService()
	lease, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(probeLife))
	if err == nil {
		err = manager.Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("have containerd collect garbage: %w", err)
	}
	return nil
}
