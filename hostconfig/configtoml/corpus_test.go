package configtoml_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

var update = flag.Bool("update", false, "write the golden files")

// secrets stand in the corpus wherever a password may.
var secrets = []string{"swordfish", "c3dvcmRmaXNo"}

// TestCorpus shows what is said and planned for each case, by version, and that it holds no secret, that what is planned
// is in effect afterwards, and that there is then nothing more to plan. The differential test compares the same cases
// with containerd itself.
func TestCorpus(t *testing.T) {
	for name, files := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			var texts []string
			byText := map[string][]string{}
			for _, v := range versions {
				text := outcomeOf(t, files, v)
				if byText[text] == nil {
					texts = append(texts, text)
				}
				byText[text] = append(byText[text], v)
			}
			var got strings.Builder
			for _, text := range texts {
				fmt.Fprintf(&got, "==== containerd %s\n%s", strings.Join(byText[text], ", "), text)
			}
			golden(t, filepath.Join("testdata", "golden", name+".golden"), got.String())
		})
	}
}

// outcomeOf writes down everything that the package says about a case. The version's number is left out, so that equal
// outcomes are equal texts.
func outcomeOf(t *testing.T, files map[string]string, v string) string {
	t.Helper()
	c := read(t, node(files), v)
	var b strings.Builder
	fmt.Fprintln(&b, c.ConfigPath())
	for _, w := range c.Warnings() {
		fmt.Fprintln(&b, w)
	}
	edit, err := c.Plan(hostsDir, configtoml.Options{})
	b.WriteString(planned(t, files, v, edit, err))
	var refusal *configtoml.RefusedError
	if errors.As(err, &refusal) && refusal.Code == "mirrors" {
		edit, err = c.Plan(hostsDir, configtoml.Options{Convert: true})
		b.WriteString("-- with Convert\n" + planned(t, files, v, edit, err))
	}
	text := strings.ReplaceAll(b.String(), "containerd "+v, "containerd V")
	told := text + fmt.Sprintf("%+v %#v %+v %#v %+v %#v", c, c, c.Files, c.Files, edit, edit)
	for _, s := range secrets {
		if strings.Contains(told, s) {
			t.Errorf("containerd %s: a secret is told:\n%s", v, told)
		}
	}
	return text
}

func planned(t *testing.T, files map[string]string, v string, edit configtoml.Edit, err error) string {
	t.Helper()
	var refusal *configtoml.RefusedError
	switch {
	case errors.As(err, &refusal):
		if len(refusal.Manual) == 0 {
			t.Errorf("containerd %s: it refuses and does not say what to do: %v", v, err)
		}
		return fmt.Sprintf("refused [%s]: %v\n", refusal.Code, err)
	case err != nil:
		t.Fatal(err)
	case edit.IsZero():
		return "nothing to change\n"
	}
	var b strings.Builder
	fmt.Fprintln(&b, edit.Why)
	for _, w := range edit.Warnings {
		fmt.Fprintln(&b, w)
	}
	b.WriteString(visible(edit.Diff()))
	for _, r := range edit.Converted {
		fmt.Fprintf(&b, "converted %s, upstream %s, TLS %s\n", r.Host, r.Upstream, describe(r.TLS))
		for _, m := range r.Mirrors {
			fmt.Fprintf(&b, "  mirror %s %s, TLS %s\n", m.URL, m.Path, describe(m.TLS))
		}
	}
	after := map[string]string{}
	for name, text := range files {
		after[name] = text
	}
	after[strings.TrimPrefix(edit.Path, "/etc/containerd/")] = string(edit.New)
	again := read(t, node(after), v)
	if got := again.ConfigPath(); got.Value != hostsDir || got.Default {
		t.Errorf("containerd %s: after the edit there is %v", v, got)
	}
	if next, err := again.Plan(hostsDir, configtoml.Options{}); err != nil || !next.IsZero() {
		t.Errorf("containerd %s: after the edit another is planned: %v, %v", v, next.Why, err)
	}
	return b.String()
}

func describe(t hostconfig.TLS) string {
	return fmt.Sprintf("%d CAs, skip %t", t.CA.Len(), t.SkipVerify)
}

// visible shows line ends that git would not.
func visible(s string) string { return strings.ReplaceAll(s, "\r", "␍") }

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", path, diff)
	}
}
