package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/distribution/reference"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// digestOfName tells references apart whose last words are the same.
func digestOfName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// Resolved is what the references mean, by the reference as config.ParseRef spells it. One that is missing is not known yet.
type Resolved map[string]string

// Wanted is what one node should hold.
type Wanted struct {
	Images []report.WantedImage
	// Faults are what is wrong with the node's annotation.
	Faults []string
}

// wanted is what a node should hold: the config's images that are for it, those of its annotation and of requests, each name
// once.
func (i Intent) wanted(node string, labels map[string]string, annotation string, resolved Resolved) Wanted {
	var all []config.Image
	for _, img := range i.Images {
		if matches(img.NodeSelector, labels) {
			all = append(all, img)
		}
	}
	preheats, faults := i.preheats(annotation)
	all = append(all, preheats...)
	for _, r := range i.Requests {
		if r.wants(node, labels) {
			all = append(all, r.Image)
		}
	}
	w := Wanted{Faults: faults}
	taken := map[string]bool{} // every name that a pod may use means one image
	for _, img := range all {
		ref, err := config.ParseRef(img.Ref)
		if err != nil {
			continue // the config was validated, and so was the annotation
		}
		if taken[ref.String()] || slices.ContainsFunc(w.Images, func(o report.WantedImage) bool { return o.Name == img.Name }) {
			continue
		}
		taken[ref.String()] = true
		w.Images = append(w.Images, report.WantedImage{Name: img.Name, Ref: img.Ref, Digest: resolved.of(ref), Aliases: img.Aliases,
			Platform: img.Platform, Priority: img.Priority, Pin: img.Pin == nil || *img.Pin})
	}
	return w
}

// keep lets a node stay with what it has, where it is not known what a tag means: a leader that is new has not looked yet.
func (w Wanted) keep(r report.NodeReport) {
	for i, want := range w.Images {
		if is, found := find(r.Images, want); found && want.Digest == "" {
			w.Images[i].Digest = is.Target
		}
	}
}

// of is the digest that a reference names itself, or means.
func (r Resolved) of(ref reference.Named) string {
	if digested, ok := ref.(reference.Digested); ok {
		return digested.Digest().String()
	}
	return r[ref.String()]
}

// spelled is a reference as Resolved has it.
func spelled(text string) string {
	ref, err := config.ParseRef(text)
	if err != nil {
		return text
	}
	return ref.String()
}

// tags are the references of which it has to be looked up what they mean, each once, in order.
func (w Wanted) tags() (all []string) {
	for _, img := range w.Images {
		ref, err := config.ParseRef(img.Ref)
		if _, digested := ref.(reference.Digested); err != nil || digested {
			continue
		}
		all = append(all, ref.String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
