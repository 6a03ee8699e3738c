package configtoml_test

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

// TestPlanOfGeneratedConfigurations checks the promises of Plan (see checkPlan) on configurations in every form.
func TestPlanOfGeneratedConfigurations(t *testing.T) {
	n := 4000
	if testing.Short() {
		n = 400
	}
	edits, refusals := 0, map[string]int{}
	for i := range n {
		files := newGenerator(uint64(i)).files()
		for name, text := range files {
			if err := toml.Unmarshal([]byte(text), new(map[string]any)); err != nil {
				t.Fatalf("the generator wrote %s of %d, which is not TOML: %v\n%s", name, i, err, text)
			}
		}
		v := versions[i%len(versions)]
		code := checkPlan(t, files, v)
		if code == "" {
			edits++
		} else {
			refusals[code]++
		}
		if t.Failed() {
			t.Fatalf("configuration %d, containerd %s:\n%s", i, v, show(files))
		}
	}
	// Refusing everything would be no feat. These are for tables that are not allowed beside config_path, for versions
	// that do not fit, and for what would be lost.
	t.Logf("%d edits, refusals: %v", edits, refusals)
	known := []string{"mirrors", "settings-lost", "version-too-new", "newer-drop-in", "short-plugin-name", "two-names"}
	for code := range refusals {
		if !slices.Contains(known, code) {
			t.Errorf("%d refusals with code %s", refusals[code], code)
		}
	}
	if edits < n/2 {
		t.Errorf("only %d of %d are edited or need no edit", edits, n)
	}
}

// FuzzPlan checks the same on what is hardly ever TOML.
func FuzzPlan(f *testing.F) {
	for _, files := range corpus(f) {
		dropIn := ""
		for name, text := range files {
			if strings.HasPrefix(name, "conf.d/") {
				dropIn = text
			}
		}
		f.Add(files["config.toml"], dropIn, uint8(7))
	}
	for i := range 50 {
		files := newGenerator(uint64(i)).files()
		f.Add(files["config.toml"], files["conf.d/10-x.toml"], uint8(i))
	}
	f.Fuzz(func(t *testing.T, root, dropIn string, v uint8) {
		files := map[string]string{"config.toml": root, "conf.d/a.toml": dropIn}
		checkPlan(t, files, versions[int(v)%len(versions)])
	})
}

// checkPlan checks what Plan promises: it refuses, or gives bytes that parse, that differ from the old ones in
// config_path alone and in no other line, after which the directory is in effect and nothing is left to plan. With
// Convert mirrors may go as well. It returns the code of a refusal.
func checkPlan(t *testing.T, files map[string]string, v string) (code string) {
	t.Helper()
	c, err := configtoml.Read(node(files), rootFile, version(t, v))
	if err != nil {
		if errors.Is(err, configtoml.ErrTooLarge) {
			return "too-large"
		}
		t.Errorf("read: %v", err)
		return "error"
	}
	for _, w := range c.Warnings() {
		_ = w.String()
	}
	for _, o := range []configtoml.Options{{AcceptLost: true, Convert: true}, {AcceptLost: true}, {}} {
		code = checkOne(t, c, files, v, o)
	}
	return code
}

func checkOne(t *testing.T, c *configtoml.Config, files map[string]string, v string, o configtoml.Options) string {
	t.Helper()
	edit, err := c.Plan(hostsDir, o)
	if err != nil {
		var refused *configtoml.RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("plan: %v", err)
			return "error"
		}
		if len(refused.Manual) == 0 || refused.Reason == "" || refused.Code == "" {
			t.Errorf("a refusal without reason or remedy: %#v", refused)
		}
		return refused.Code
	}
	after := maps.Clone(files)
	if !edit.IsZero() {
		name := strings.TrimPrefix(edit.Path, "/etc/containerd/")
		if got := files[name]; got != string(edit.Old) {
			t.Errorf("the edit is of other bytes: %q, want %q", edit.Old, got)
		}
		checkDocuments(t, edit, o)
		if len(edit.Converted) == 0 {
			checkLines(t, edit)
		}
		if edit.Diff() == "" {
			t.Error("the edit has no diff")
		}
		after[name] = string(edit.New)
	}
	again := read(t, node(after), v)
	if got := again.ConfigPath(); strings.TrimRight(got.Value, "/") != hostsDir || got.Default {
		t.Errorf("after the edit there is %v", got)
	}
	if next, err := again.Plan(hostsDir, o); err != nil || !next.IsZero() {
		t.Errorf("after the edit another is planned: %s, %v", next.Why, err)
	}
	return ""
}

// checkDocuments compares both documents with config_path taken out wherever it may be.
func checkDocuments(t *testing.T, edit configtoml.Edit, o configtoml.Options) {
	t.Helper()
	var docs [2]map[string]any
	for i, data := range [][]byte{edit.Old, edit.New} {
		if err := toml.Unmarshal(data, &docs[i]); err != nil {
			t.Errorf("document %d: %v", i, err)
			return
		}
		plugins, _ := docs[i]["plugins"].(map[string]any)
		for _, name := range []string{"cri", v2, v3} {
			plugin, _ := plugins[name].(map[string]any)
			registry, _ := plugin["registry"].(map[string]any)
			delete(registry, "config_path")
			if o.Convert {
				delete(registry, "mirrors")
				configs, _ := registry["configs"].(map[string]any)
				for host, c := range configs {
					config, _ := c.(map[string]any)
					if delete(config, "tls"); len(config) == 0 {
						delete(configs, host)
					}
				}
				deleteEmpty(registry, "configs")
			}
			deleteEmpty(plugin, "registry")
			deleteEmpty(plugins, name)
		}
		deleteEmpty(docs[i], "plugins")
	}
	// fmt prints nan as nan; reflect.DeepEqual does not find it equal to itself.
	if !reflect.DeepEqual(docs[0], docs[1]) && !strings.Contains(string(edit.Old), "nan") {
		t.Errorf("the edit changes more than config_path:\n%v\n%v", docs[0], docs[1])
	}
}

func deleteEmpty(t map[string]any, key string) {
	if sub, ok := t[key].(map[string]any); ok && len(sub) == 0 {
		delete(t, key)
	}
}

// checkLines: what is added is one block of lines, and what goes are the lines of one value.
func checkLines(t *testing.T, edit configtoml.Edit) {
	t.Helper()
	before, after := strings.SplitAfter(string(edit.Old), "\n"), strings.SplitAfter(string(edit.New), "\n")
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	gone, come := strings.Join(before, ""), strings.Join(after, "")
	isValue := strings.Count(gone, "\n") > 1
	if isValue && !strings.Contains(gone, `"""`) && !strings.Contains(gone, `'''`) {
		t.Errorf("more than one line goes:\n%s", gone)
	}
	if strings.Count(come, hostsDir) != 1 && strings.Count(gone, hostsDir) == 0 {
		t.Errorf("these lines come:\n%s", come)
	}
	if strings.Count(come, "\n") > 5 && !isValue {
		t.Errorf("more lines come than needed:\n%s", come)
	}
}

func show(files map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b.WriteString("---- " + name + "\n" + visible(files[name]) + "\n")
	}
	return b.String()
}
