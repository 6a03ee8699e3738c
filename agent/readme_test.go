package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// block finds the first fenced block of a language at or behind from, and where it begins and ends.
func block(t *testing.T, text, language string, from int) (content string, begin, end int) {
	t.Helper()
	fence := "```" + language + "\n"
	at := strings.Index(text[from:], fence)
	if at < 0 {
		t.Fatalf("README.md has no block of %s there", language)
	}
	begin = from + at + len(fence)
	size := strings.Index(text[begin:], "```")
	if size < 0 {
		t.Fatalf("README.md does not end its block of %s", language)
	}
	return text[begin : begin+size], begin, begin + size
}

// The README shows one config and what becomes of it. It must stay true.
func TestTheREADMEShowsWhatIsRendered(t *testing.T) {
	path := filepath.Join("..", "README.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	heading := strings.Index(text, "\n## One config\n")
	if heading < 0 {
		t.Fatal("README.md has no section One config")
	}
	doc, _, after := block(t, text, "yaml", heading)
	shown, begin, end := block(t, text, "toml", after)

	cfg, err := config.Decode("README.md", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := certs.ReadBundleFile(filepath.Join("testdata", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := config.Snapshot{Config: cfg, Bundles: make(map[string]certs.Bundle)}
	for _, b := range cfg.Certs.Bundles {
		s.Bundles[b.Name] = bundle
	}
	regs, err := Registries(s)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := hostconfig.Render(regs, hostconfig.Version{})
	if err != nil {
		t.Fatal(err)
	}
	rendered := string(tree["docker.io/"+hostconfig.HostsTOML].Data)
	if *update {
		if err := os.WriteFile(path, []byte(text[:begin]+rendered+text[end:]), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(rendered, shown); diff != "" {
		t.Errorf("README.md shows something else than what is rendered (-rendered +shown, -update writes it):\n%s", diff)
	}
}
