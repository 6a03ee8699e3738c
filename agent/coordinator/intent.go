package coordinator

import (
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/hotplate-dev/hotplate/agent/config"
)

// The marks on a Node that users write.
const (
	// PreheatAnnotation names images that this node should hold beside those of the config: references, or names of its
	// images, with commas between them.
	PreheatAnnotation = "hotplate.dev/preheat"
	// maxPreheats bounds how many entries of an annotation or a request count.
	maxPreheats = 64
)

// Intent is what users want of the whole cluster at one moment. It does not change.
type Intent struct {
	// Hash is that of the config.
	Hash    string
	Images  []config.Image
	Cluster config.Cluster
	// Requests are preheats beside the config and the annotations. A Coordinator fills them in itself.
	Requests []Request
}

// Request is a preheat of one image on the nodes that a selector matches.
type Request struct {
	// Name is that of the ConfigMap that holds it.
	Name     string
	Image    config.Image
	Selector map[string]string
	// Nodes are names of nodes; none means all that Selector matches.
	Nodes []string
}

// matches tells whether labels has all of selector.
func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

func (r Request) wants(node string, labels map[string]string) bool {
	return matches(r.Selector, labels) && (len(r.Nodes) == 0 || slices.Contains(r.Nodes, node))
}

// preheats reads an annotation. What is wrong with it is told entry by entry; the others count.
func (i Intent) preheats(annotation string) (all []config.Image, faults []string) {
	entries := strings.FieldsFunc(annotation, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	if len(entries) > maxPreheats {
		faults = append(faults, fmt.Sprintf("%d entries are more than %d: the rest is left out", len(entries), maxPreheats))
		entries = entries[:maxPreheats]
	}
	for _, entry := range entries {
		if n := slices.IndexFunc(i.Images, func(img config.Image) bool { return img.Name == entry }); n >= 0 {
			all = append(all, i.Images[n])
			continue
		}
		ref, err := config.ParseRef(entry)
		switch {
		case err != nil:
			faults = append(faults, fmt.Sprintf("%q %v", short(entry), err))
			continue
		case !strings.ContainsAny(entry, "/:@"):
			// docker.io/library/NAME is what it would mean, and what nobody means.
			faults = append(faults, fmt.Sprintf("%q is neither an image of the config nor a reference: it has %s", short(entry), i.names()))
			continue
		}
		all = append(all, config.Image{Name: nameOf(ref), Ref: ref.String(), Pin: new(true)})
	}
	return all, faults
}

// names are those of the config's images, as far as a person wants to read them.
func (i Intent) names() string {
	const most = 8
	var names []string
	for _, img := range i.Images {
		names = append(names, img.Name)
	}
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// short is an entry of a person's as far as it is worth repeating.
func short(entry string) string {
	const most = 80
	if len(entry) > most {
		return strings.ToValidUTF8(entry[:most], "") + "…"
	}
	return entry
}

// nameOf makes the name of an image set of a reference: what a label's key can be, and the same for the same reference.
func nameOf(ref reference.Named) string {
	const most = 40
	last := reference.Path(ref)
	last = last[strings.LastIndexByte(last, '/')+1:]
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, last)
	if len(name) > most {
		name = name[:most]
	}
	return strings.Trim(name, "-") + "-" + digestOfName(ref.String())
}
