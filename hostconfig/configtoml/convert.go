package configtoml

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// conversion is the removal of `mirrors`, and on 1.x of configs.*.tls, which may not stand beside config_path. The zero
// conversion removes nothing.
type conversion struct {
	at       target
	keys     [][]string // what goes, below the registry table
	removals []change
	// registries are what it said.
	registries []hostconfig.Registry
}

func (v *conversion) isZero() bool { return len(v.keys) == 0 }

// conversion finds what has to go, in effect, and where it stands.
func (c *Config) conversion() (conversion, error) {
	keys := c.legacyKeys(c.result.registry)
	if len(keys) == 0 {
		return conversion{}, nil
	}
	var places []target
	for i := range c.Files {
		for _, plugin := range registryNames() {
			plugins, _ := c.Files[i].doc["plugins"].(table)
			isIgnored := slices.ContainsFunc(c.result.ignored, func(ig ignored) bool { return ig.file == i && ig.plugin == plugin })
			if !isIgnored && len(c.legacyKeys(registryOf(plugins, plugin))) > 0 {
				places = append(places, target{i, plugin})
			}
		}
	}
	var manual []Step
	for _, at := range places {
		f := &c.Files[at.file]
		manual = append(manual, Step{
			File: f.Real, Line: f.lineUnder("plugins", at.plugin, "registry"),
			Note: fmt.Sprintf("take %s out of [plugins.%q.registry]", c.legacyNames(), at.plugin),
		})
	}
	if len(places) != 1 {
		return conversion{}, &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot stand beside config_path, and several sections have them",
				c.legacyNames()), Manual: manual,
		}
	}
	v := conversion{at: places[0], keys: keys}
	var full [][]string
	for _, key := range keys {
		full = append(full, append([]string{"plugins", v.at.plugin, "registry"}, key...))
	}
	var ok bool
	if v.removals, ok = c.Files[v.at.file].remove(full...); !ok {
		return conversion{}, &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot stand beside config_path, and here they are not on lines of "+
				"their own", c.legacyNames()), Manual: manual,
		}
	}
	return v, nil
}

// legacyKeys returns the keys below a registry table that may not stand beside config_path. containerd does not mind
// empty tables (ValidatePluginConfig of pkg/cri/config/config.go, 1.7.35).
func (c *Config) legacyKeys(registry table) [][]string {
	var out [][]string
	if mirrors, _ := registry["mirrors"].(table); len(mirrors) > 0 {
		out = append(out, []string{"mirrors"})
	}
	if !c.rules.RefusesLegacyTLS {
		return out
	}
	configs, _ := registry["configs"].(table)
	for _, host := range slices.Sorted(maps.Keys(configs)) {
		if config, _ := configs[host].(table); config["tls"] != nil {
			out = append(out, []string{"configs", host, "tls"})
		}
	}
	return out
}

func (c *Config) legacyNames() string {
	if c.rules.RefusesLegacyTLS {
		return "`mirrors` and configs.*.tls"
	}
	return "`mirrors`"
}

// refuseMirrors says by hand what edit does.
func (c *Config) refuseMirrors(v conversion, edit Edit) *RefusedError {
	return &RefusedError{
		Code: "mirrors",
		Reason: fmt.Sprintf("%s has %s in [plugins.%q.registry], and beside config_path that takes CRI down",
			c.Files[v.at.file].Real, dottedName(v.keys[0]), v.at.plugin),
		Manual: stepsOf(edit),
	}
}

// refuseTwoFiles says what to do where the tables are in one file and config_path in another, which is no single edit.
func (c *Config) refuseTwoFiles(hostsDir string, v conversion, cause error) error {
	f := &c.Files[v.at.file]
	edit, err := c.edit(hostsDir, conversion{})
	if err != nil {
		return cause
	}
	r := c.refuseMirrors(v, Edit{Path: f.Real, Old: f.Data, New: apply(f.Data, v.removals)})
	r.Reason += fmt.Sprintf("; config_path itself is to be set in another section, in %s", edit.Path)
	r.Manual = append(stepsOf(edit), r.Manual...)
	return r
}

// stepsOf says by hand what an edit does, from the last line to the first, so that the numbers hold until the end.
func stepsOf(edit Edit) []Step {
	var out []Step
	before, after := lines(redacted(edit.Old)), lines(redacted(edit.New))
	for _, b := range slices.Backward(changedBlocks(before, after)) {
		s := Step{File: edit.Path, Line: b.oldStart + 1, Remove: b.oldEnd - b.oldStart}
		if b.oldStart == len(before) {
			s.Line = 0
		}
		for _, line := range after[b.newStart:b.newEnd] {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				s.Add = append(s.Add, line)
			}
		}
		out = append(out, s)
	}
	return out
}

// describe fills in the registries. Their files are read from the node.
func (v *conversion) describe(c *Config) error {
	l := legacy{node: c.node, tls: map[string]hostconfig.TLS{}}
	registry := plain(c.result.registry)
	l.mirrors, _ = registry["mirrors"].(table)
	if c.rules.RefusesLegacyTLS {
		l.configs, _ = registry["configs"].(table)
	}
	var err error
	if v.registries, err = l.registries(); err == nil {
		_, err = hostconfig.Render(v.registries, c.Version)
	}
	if err != nil {
		f := &c.Files[v.at.file]
		return &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot be converted: %v", c.legacyNames(), err),
			Manual: []Step{{
				File: f.Real, Line: f.lineUnder("plugins", v.at.plugin, "registry"),
				Note: fmt.Sprintf("write hosts.toml files for them and take %s out of [plugins.%q.registry]",
					c.legacyNames(), v.at.plugin),
			}},
		}
	}
	return nil
}
