package prefetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Image is what is wanted on the node.
type Image struct {
	// Ref is the image as pods write it. It is normalised as containerd's CRI does: nginx becomes
	// docker.io/library/nginx:latest, and of a reference with a tag and a digest only the digest counts.
	Ref string
	// Aliases are other names that pods use for the same image. They are never resolved: the bytes come from Ref.
	Aliases []string
	// Platform is os/arch[/variant]; empty means the node's own.
	Platform string
	// Pin protects the image from the kubelet's garbage collection.
	Pin bool
}

// wanted is an Image whose references have been parsed.
type wanted struct {
	ref      reference.Named   // with a tag or a digest, never both
	aliases  []reference.Named // likewise
	platform platforms.MatchComparer
	pin      bool
}

// parse checks img and normalises its names. It reports all faults at once.
func (img Image) parse() (wanted, error) {
	w := wanted{platform: platforms.Default(), pin: img.Pin}
	var errs []error
	ref, err := reference.ParseDockerRef(img.Ref)
	if err != nil {
		errs = append(errs, fmt.Errorf("image %q: %w", img.Ref, err))
	}
	w.ref = ref
	for _, a := range img.Aliases {
		alias, err := reference.ParseDockerRef(a)
		if err != nil {
			errs = append(errs, fmt.Errorf("alias %q of image %q: %w", a, img.Ref, err))
			continue
		}
		w.aliases = append(w.aliases, alias)
	}
	if img.Platform != "" {
		p, err := platforms.Parse(img.Platform)
		if err != nil {
			errs = append(errs, fmt.Errorf("platform %q of image %q: %w", img.Platform, img.Ref, err))
		}
		w.platform = platforms.Only(p)
	}
	return w, errors.Join(errs...)
}

// digest is the digest that the reference itself demands, or empty.
func (w wanted) digest() digest.Digest {
	if d, ok := w.ref.(reference.Digested); ok {
		return d.Digest()
	}
	return ""
}

// names are the image records that should point at target, in the order in which they are made: the repository's digest
// name first, then the tag, then the aliases. They are the names that containerd's CRI would make for the same pulls
// (internal/cri/server/images/image_pull.go, PullImage, 2.4.2), without its sha256:<config> record, which is CRI's own.
func (w wanted) names(target digest.Digest) ([]string, error) {
	byDigest, err := reference.WithDigest(reference.TrimNamed(w.ref), target)
	if err != nil {
		return nil, fmt.Errorf("name %s by digest %s: %w", w.ref, target, err)
	}
	names := []string{byDigest.String()}
	seen := map[string]bool{names[0]: true}
	for _, n := range append([]reference.Named{w.ref}, w.aliases...) {
		if d, ok := n.(reference.Digested); ok && d.Digest() != target {
			return nil, fmt.Errorf("name %s asks for another digest than %s, which %s has", n, target, w.ref)
		}
		if s := n.String(); !seen[s] {
			seen[s] = true
			names = append(names, s)
		}
	}
	return names, nil
}

// key names the image's content lease: the same image and platform always have the same key.
func (img Image) key() string {
	ref := img.Ref
	if named, err := reference.ParseDockerRef(ref); err == nil {
		ref = named.String()
	}
	sum := sha256.Sum256([]byte(ref + "\n" + img.Platform))
	return hex.EncodeToString(sum[:8])
}
