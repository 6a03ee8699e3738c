package coordinator

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const someDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

func TestWanted(t *testing.T) {
	intent := Intent{
		Images: []config.Image{
			{Name: "everywhere", Ref: "registry.example.com/base:v1"},
			{Name: "llama", Ref: "registry.example.com/llama:v1", NodeSelector: map[string]string{"pool": "gpu"}, Priority: 3},
			{Name: "exact", Ref: "registry.example.com/exact@" + someDigest, NodeSelector: map[string]string{"pool": "none"}},
		},
		Requests: []Request{
			{Name: "by-label", Image: config.Image{Name: "asked", Ref: "registry.example.com/asked:v1"}, Selector: map[string]string{"pool": "gpu"}},
			{Name: "by-name", Image: config.Image{Name: "named", Ref: "registry.example.com/named:v1"}, Nodes: []string{"gpu-1"}},
		},
	}
	resolved := Resolved{"registry.example.com/base:v1": "sha256:base"}
	names := func(w Wanted) (all []string) {
		for _, img := range w.Images {
			all = append(all, img.Name)
		}
		return all
	}
	for name, c := range map[string]struct {
		node, annotation string
		labels           map[string]string
		want             []string
		faults           []string // parts of each
	}{
		"any node":              {node: "cpu-1", want: []string{"everywhere"}},
		"a node of the pool":    {node: "gpu-2", labels: map[string]string{"pool": "gpu"}, want: []string{"everywhere", "llama", "asked"}},
		"a node that is named":  {node: "gpu-1", labels: map[string]string{"pool": "cpu"}, want: []string{"everywhere", "named"}},
		"annotated with a name": {node: "cpu-1", annotation: "llama", want: []string{"everywhere", "llama"}},
		"annotated with references": {node: "cpu-1", annotation: " registry.example.com/a/b:v2,\nregistry.example.com/c@" + someDigest + " ",
			want: []string{"everywhere", "b-", "c-"}},
		"annotated twice with the same": {node: "cpu-1", annotation: "llama,registry.example.com/llama:v1,everywhere",
			want: []string{"everywhere", "llama"}},
		"annotated wrongly": {node: "cpu-1", annotation: "lama, registry.example.com/UPPER:v1, llama",
			want: []string{"everywhere", "llama"}, faults: []string{`"lama" is neither an image of the config`, "lower case"}},
		"annotated with too much": {node: "cpu-1", annotation: strings.Repeat("llama,", 65), want: []string{"everywhere", "llama"},
			faults: []string{"65 entries are more than 64"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := intent.wanted(c.node, c.labels, c.annotation, resolved)
			got := names(w)
			if !slices.EqualFunc(got, c.want, func(a, b string) bool { return a == b || strings.HasSuffix(b, "-") && strings.HasPrefix(a, b) }) {
				t.Errorf("%v, want %v", got, c.want)
			}
			if !slices.EqualFunc(w.Faults, c.faults, strings.Contains) {
				t.Errorf("faults %q, want %q", w.Faults, c.faults)
			}
		})
	}
	w := intent.wanted("gpu-1", map[string]string{"pool": "gpu"}, "exact", resolved)
	want := []report.WantedImage{
		{Name: "everywhere", Ref: "registry.example.com/base:v1", Digest: "sha256:base", Pin: true},
		{Name: "llama", Ref: "registry.example.com/llama:v1", Priority: 3, Pin: true},
		{Name: "exact", Ref: "registry.example.com/exact@" + someDigest, Digest: someDigest, Pin: true},
	}
	if diff := cmp.Diff(want, w.Images[:3]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"registry.example.com/asked:v1", "registry.example.com/base:v1", "registry.example.com/llama:v1",
		"registry.example.com/named:v1"}, w.tags()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// TestNameOf: a name made of a reference is a DNS label, and each reference has its own.
func TestNameOf(t *testing.T) {
	seen := map[string]string{}
	for _, text := range []string{
		"a:v1", "a:v2", "registry.example.com/" + strings.Repeat("x", 200) + ":v1", "registry.example.com/a/b_c.d:v1",
		"registry.example.com/x/__y:v1", "[::1]:5000/a@" + someDigest,
	} {
		ref, err := config.ParseRef(text)
		if err != nil {
			if strings.Contains(text, "__y") {
				continue // not a reference
			}
			t.Fatal(err)
		}
		name := nameOf(ref)
		if first, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", first, text, name)
		}
		seen[name] = text
		if len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasPrefix(name, "-") {
			t.Errorf("%s becomes %q, which is no DNS label", text, name)
		}
		if again := nameOf(ref); again != name {
			t.Errorf("%s is %s, then %s", text, name, again)
		}
	}
}
