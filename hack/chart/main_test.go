package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v3"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
)

// atRoot runs the rest of the test where the program runs.
func atRoot(t *testing.T) {
	t.Helper()
	t.Chdir("../..")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFilesAreUpToDate leaves the file that needs helm to the tests with the tag e2e.
func TestFilesAreUpToDate(t *testing.T) {
	atRoot(t)
	files, err := fromValues()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := f.Verify(command); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsWrongWithValuesIsTold(t *testing.T) {
	atRoot(t)
	for name, test := range map[string]struct{ values, says string }{
		"no comment":         {"a: 1\n", "a is not documented"},
		"no comment within":  {"# A group.\na:\n  # One.\n  b: 1\n  c: 2\n", "a.c is not documented"},
		"only a schema":      {"# @schema {minimum: 1}\na: 1\n", "a is not documented"},
		"a broken schema":    {"# A.\n# @schema {minimum: \na: 1\n", "a: @schema"},
		"a list of anything": {"# A.\na: []\n", "a: its default does not show what it holds: say items"},
		"a map of anything":  {"# A.\na: {}\n", "a: its default does not show what it holds: say additionalProperties"},
		"nothing":            {"# A.\na: null\n", "a: its default !!null does not show its type"},
		"an unknown type":    {"# A.\n# @schema {$ref: '#/$defs/Typo'}\na: {}\n", "there is no type #/$defs/Typo"},
		"no map":             {"- a\n", "they are not a map"},
	} {
		t.Run(name, func(t *testing.T) {
			values, err := parseValues([]byte(test.values))
			if err == nil {
				_, err = makeSchema(values)
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want %q", err, test.says)
			}
		})
	}
}

func TestTheReadmeKeepsWhatIsAroundTheTable(t *testing.T) {
	values, err := parseValues([]byte("# A | b.\na: [1, {x: y}]\n\n# A group.\ng:\n  # One\n  # thing.\n  b: {c: 1}\n"))
	if err == nil {
		t.Fatal("a group in a group is taken", values)
	}
	values, err = parseValues([]byte("# A | b.\na: [1, {x: y}]\n\n# A group.\ng:\n  # One\n  # thing.\n  b: \"\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fillReadme([]byte("before\n"+tableBegin+"old\n"+tableEnd+"after\n"), values)
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n" + tableBegin + "\n| value | default | what |\n|---|---|---|\n| `a` | `[1, {x: y}]` | A \\| b. |\n\n### g\n\nA group.\n" +
		"\n| value | default | what |\n|---|---|---|\n| `g.b` | `\"\"` | One thing. |\n\n" + tableEnd + "after\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := fillReadme([]byte("no table\n"), values); err == nil {
		t.Error("a README without a place for the table is taken")
	}
}

// TestPresetsAreWhatTheAgentKnows compares with hostconfig/daemon.
func TestPresetsAreWhatTheAgentKnows(t *testing.T) {
	atRoot(t)
	presets := readPresets(t)
	if len(presets) != 4 {
		t.Errorf("%d presets", len(presets))
	}
	for name, p := range presets {
		root := fstest.MapFS{}
		if name == "rke2" { // is told from k3s by its directory
			root["var/lib/rancher/rke2/bin"] = &fstest.MapFile{}
		}
		is := daemon.DetectFlavour(root, daemon.Signs{Socket: p["containerdSocket"]})
		if is.Name != name || is.HostsDir != p["hostsDir"] {
			t.Errorf("%s: the agent sees %s with hosts directory %s", name, is.Name, is.HostsDir)
		}
		if native := is.Native != ""; native != (p["systemdDir"] == "") {
			t.Errorf("%s: systemd is at %q, and containerd's configuration belongs to another program: %v", name, p["systemdDir"], native)
		}
		if !strings.HasPrefix(p["hostsDir"], p["configDir"]+"/") {
			t.Errorf("%s: %s is not in %s", name, p["hostsDir"], p["configDir"])
		}
	}
}

func readPresets(t *testing.T) (presets map[string]map[string]string) {
	t.Helper()
	if err := yaml.Unmarshal(read(t, filepath.Join(chartDir, "files", "presets.yaml")), &presets); err != nil {
		t.Fatal(err)
	}
	return presets
}

// TestAlertsAskForMetricsThatExist: agents' are in a golden file, coordinators' in the source.
func TestAlertsAskForMetricsThatExist(t *testing.T) {
	atRoot(t)
	exported := map[string]bool{}
	for _, f := range []struct{ path, pattern string }{
		{"agent/testdata/metrics.golden", `(?m)^hotplate_[a-z_]+`},
		{"agent/coordinator/metrics.go", `hotplate_[a-z_]+`},
	} {
		for _, name := range regexp.MustCompile(f.pattern).FindAllString(string(read(t, f.path)), -1) {
			exported[name] = true
		}
	}
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(read(t, alertsFile), &alerts); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Hotplate") {
				t.Errorf("the name %q is there already, or not ours", r.Alert)
			}
			seen[r.Alert] = true
			if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say what it means and what to do", r.Alert)
			}
			names := regexp.MustCompile(`hotplate_[a-z_]+`).FindAllString(r.Expr, -1)
			if len(names) == 0 {
				t.Errorf("%s asks for nothing: %s", r.Alert, r.Expr)
			}
			for _, name := range names {
				if !exported[name] && !exported[strings.TrimSuffix(name, "_bucket")] {
					t.Errorf("%s asks for %s, which nobody exports", r.Alert, name)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d alerts were seen", len(seen))
	}
}
