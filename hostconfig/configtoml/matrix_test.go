package configtoml_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// TestDropInsAsMeasured holds the rules against what running daemons of 1.6.20 to 2.4.2 did with a drop-in that has
// nothing but config_path. Lines that are not in the repository's tests on real parts (2.2.1, 2.3.4) are among them.
func TestDropInsAsMeasured(t *testing.T) {
	dropIns := map[string]string{
		"no version, key of 2": "[plugins.\"" + v2 + "\".registry]\nconfig_path = \"/drop-in\"\n",
		"no version, key of 3": "[plugins.\"" + v3 + "\".registry]\nconfig_path = \"/drop-in\"\n",
		"version 2":            "version = 2\n[plugins.\"" + v2 + "\".registry]\nconfig_path = \"/drop-in\"\n",
		"version 3":            "version = 3\n[plugins.\"" + v3 + "\".registry]\nconfig_path = \"/drop-in\"\n",
		"version 4":            "version = 4\n[plugins.\"" + v3 + "\".registry]\nconfig_path = \"/drop-in\"\n",
	}
	for _, tc := range []struct {
		dropIn, versions, roots, want string
	}{
		{"no version, key of 2", "1.6.36 1.7.35", "2", "hit, root lost"},
		{"no version, key of 2", "2.0.14 2.1.9 2.2.1 2.2.9", "2", "hit"},
		{"no version, key of 2", "2.0.14 2.1.9 2.2.1 2.2.9", "3", "ignored"},
		{"no version, key of 2", "2.3.4 2.3.7 2.4.2", "2 3 4", "hit"},
		{"no version, key of 3", "2.0.14 2.1.9 2.2.1 2.2.9", "2 3", "hit"},
		{"no version, key of 3", "2.3.4 2.3.7 2.4.2", "2 3 4", "hit"},
		{"version 2", "1.6.36 1.7.35", "2", "hit, root lost"},
		{"version 2", "2.0.14 2.1.9 2.2.1 2.2.9", "2 3", "hit"},
		{"version 2", "2.3.4 2.3.7 2.4.2", "2 3 4", "hit"},
		{"version 3", "1.6.36 1.7.35", "2", "no start"},
		{"version 3", "1.6.20", "2", "ignored"},
		{"version 3", "2.0.14 2.1.9 2.2.1 2.2.9", "2", "hit, root lost"},
		{"version 3", "2.0.14 2.1.9 2.2.1 2.2.9", "3", "hit"},
		{"version 3", "2.3.4", "2", "no start"},
		{"version 3", "2.3.4", "3 4", "hit"},
		{"version 3", "2.3.7 2.4.2", "2 3 4", "hit"},
		{"version 4", "2.0.14 2.1.9 2.2.1 2.2.9", "2 3", "no start"},
		{"version 4", "2.3.4", "2 3", "no start"},
		{"version 4", "2.3.4", "4", "hit"},
		{"version 4", "2.3.7 2.4.2", "2 3 4", "hit"},
	} {
		for v := range strings.FieldsSeq(tc.versions) {
			for root := range strings.FieldsSeq(tc.roots) {
				name := v3
				if root == "2" {
					name = v2
				}
				c := read(t, node(map[string]string{
					"config.toml": fmt.Sprintf("version = %s\nimports = [\"conf.d/*.toml\"]\n[plugins.%q]\n"+
						"stats_collect_period = 12\n", root, name),
					"conf.d/x.toml": dropIns[tc.dropIn],
				}), v)
				got := "ignored"
				if c.ConfigPath().Value == "/drop-in" {
					got = "hit"
				}
				for _, w := range c.Warnings() {
					switch {
					case w.Code == "ignored-section" && w.Severity == hostconfig.Severe && strings.Contains(w.Where, "config.toml"):
						got += ", root lost"
					case slices.Contains([]string{"version-too-new", "newer-drop-in"}, w.Code):
						got = "no start"
					}
				}
				if strings.HasPrefix(got, "no start") {
					got = "no start"
				}
				if got != tc.want {
					t.Errorf("%s on a root of version %s, containerd %s: %s, want %s", tc.dropIn, root, v, got, tc.want)
				}
			}
		}
	}
}
