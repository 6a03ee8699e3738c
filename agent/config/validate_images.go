package config

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
)

// claim is what an image says that a name means.
type claim struct {
	ref, platform string
	pin           bool
	path          string // who says so
}

func (v *validator) images(images []Image) {
	names := newNames("image", "images")
	claims := map[string]claim{}
	for i, image := range images {
		at := index("images", i)
		v.add(names, join(at, "name"), image.Name)
		if image.Name != "" && !label.MatchString(image.Name) {
			v.fault(join(at, "name"), "is %s, not a DNS label; write at most 63 lower-case letters, digits and dashes",
				quote(image.Name))
		}
		platform := v.platform(join(at, "platform"), image.Platform)
		v.labels(join(at, "nodeSelector"), image.NodeSelector)
		if image.Ref == "" {
			continue
		}
		ref, err := ParseRef(image.Ref)
		if err != nil {
			v.fault(join(at, "ref"), "%s", err)
			continue
		}
		meaning := claim{ref: ref.String(), platform: platform, pin: image.Pin == nil || *image.Pin, path: at}
		v.claim(join(at, "ref"), ref, meaning, claims)
		v.aliases(join(at, "aliases"), image.Aliases, ref, meaning, claims)
	}
}

func (v *validator) aliases(at string, aliases []string, ref reference.Named, meaning claim, claims map[string]claim) {
	seen := map[string]bool{ref.String(): true}
	for i, text := range aliases {
		path := index(at, i)
		alias, err := ParseRef(text)
		if err != nil {
			v.fault(path, "%s", err)
			continue
		}
		if seen[alias.String()] {
			v.fault(path, "is %s, a name that the image has already; remove it", quote(alias.String()))
			continue
		}
		seen[alias.String()] = true
		if a, b := digestOf(alias), digestOf(ref); a != "" && b != "" && a != b {
			v.fault(path, "has another digest than ref, so that it is another image; correct one of them")
			continue
		}
		v.claim(path, alias, meaning, claims)
	}
}

// claim refuses that one name means two things: a node can hold only one image under a name.
func (v *validator) claim(path string, name reference.Named, meaning claim, claims map[string]claim) {
	first, ok := claims[name.String()]
	if !ok {
		claims[name.String()] = meaning
		return
	}
	same := first
	same.path = meaning.path
	if same != meaning {
		v.fault(path, "is %s, which %s has with another ref, platform or pin; a node can hold one image under a name",
			quote(name.String()), first.path)
	}
}

func (v *validator) platform(path, text string) string {
	if text == "" {
		return ""
	}
	parsed, err := platforms.Parse(text)
	if err != nil || !strings.Contains(text, "/") {
		v.fault(path, "is %s; write operating system/architecture, such as linux/amd64 or linux/arm/v7", quote(text))
		return text
	}
	return platforms.Format(platforms.Normalize(parsed))
}

// ParseRef reads an image reference and spells it as containerd does: with docker.io where it names no host, latest
// where it has neither tag nor digest, and without the tag where it has both. The error says what to write instead.
//
// It is the parser of containerd's CRI plugin (distribution/reference, ParseDockerRef), because names must come out as
// the kubelet will ask for them; go-containerregistry would say index.docker.io.
func ParseRef(text string) (reference.Named, error) {
	ref, err := reference.ParseDockerRef(text)
	if err != nil {
		return nil, fmt.Errorf("is %s, not an image reference; write host/repository:tag or host/repository@sha256:…, "+
			"the repository in lower case", quote(text))
	}
	return ref, nil
}

func digestOf(ref reference.Named) string {
	if digested, ok := ref.(reference.Digested); ok {
		return digested.Digest().String()
	}
	return ""
}
