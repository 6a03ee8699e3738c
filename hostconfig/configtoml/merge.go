package configtoml

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

type table = map[string]any

// leaf is a value of a registry table, with where it comes from.
type leaf struct {
	value  any
	file   int    // index into the files
	plugin string // the plugin's name as it stands there
}

// outcome is what containerd makes of the files together.
type outcome struct {
	// version is the one that decides how the plugin sections are read.
	version int64
	// plugins are the sections that are in effect, by the names of the daemon's own version. Below `registry` of the
	// CRI plugin the values are leaves.
	plugins table
	// registry is the CRI plugin's registry table among them; nil if there is none.
	registry table
	// migrated: the registry comes from the name that it had in version 2.
	migrated bool
	faults   []fault
	ignored  []ignored
}

// ignored is a plugin section that has no effect, or only its registry table.
type ignored struct {
	file    int
	plugin  string
	whole   bool // all of the section, and not only the registry
	because string
}

// registryNames are the names of plugins that may hold the registry table.
func registryNames() []string {
	return []string{hostconfig.PluginV1, hostconfig.PluginV2, hostconfig.PluginV3}
}

// evaluate does what containerd does from loading the files to handing the CRI plugin its section, as far as the
// registry goes. What cannot be parsed counts as empty.
func evaluate(files []File, rules hostconfig.ConfigRules) outcome {
	e := evaluator{files: files, rules: rules, outcome: outcome{plugins: table{}, version: rules.MaxVersion}}
	switch rules.Merge {
	case hostconfig.ReplaceSections:
		e.replaceSections()
	case hostconfig.MergeThenMigrate:
		e.mergeThenMigrate()
	case hostconfig.MigrateThenMerge:
		e.migrateThenMerge()
	}
	e.tooNew()
	if rules.RefusesNewerDropIn {
		e.newerDropIn()
	}
	e.registry = registryOf(e.plugins, pluginInEffect(rules, e.version))
	e.checkTypes()
	return e.outcome
}

type evaluator struct {
	files []File
	rules hostconfig.ConfigRules
	outcome
}

// pluginInEffect is the name under which the daemon looks for the registry (Decode of the file named at load).
func pluginInEffect(rules hostconfig.ConfigRules, version int64) string {
	switch {
	case rules.Merge != hostconfig.ReplaceSections:
		return hostconfig.PluginV3
	case version < 2:
		return hostconfig.PluginV1
	default:
		return hostconfig.PluginV2
	}
}

func registryOf(plugins table, name string) table {
	section, _ := plugins[name].(table)
	registry, _ := section["registry"].(table)
	return registry
}

// sections returns a copy of a file's plugins that may be changed down to the registry, its values being leaves.
func (e *evaluator) sections(i int) table {
	plugins, _ := e.files[i].doc["plugins"].(table)
	out := maps.Clone(plugins)
	if out == nil {
		out = table{}
	}
	for _, name := range registryNames() {
		section, ok := out[name].(table)
		if !ok {
			continue
		}
		section = maps.Clone(section)
		if registry, ok := section["registry"].(table); ok {
			section["registry"] = mapLeaves(registry, func(v any) any { return leaf{value: v, file: i, plugin: name} })
		}
		out[name] = section
	}
	return out
}

func mapLeaves(t table, change func(any) any) table {
	out := table{}
	for k, v := range t {
		if sub, ok := v.(table); ok {
			out[k] = mapLeaves(sub, change)
		} else {
			out[k] = change(v)
		}
	}
	return out
}

// plain returns a registry table without the marks of where its values come from.
func plain(t table) table {
	return mapLeaves(t, func(v any) any {
		if l, ok := v.(leaf); ok {
			return l.value
		}
		return v
	})
}

// replaceSections follows mergeConfig, GetVersion and ValidateV2 of services/server/config/config.go, 1.6.20 and 1.7.35.
func (e *evaluator) replaceSections() {
	e.version = 1
	last := map[string]int{}
	for i, f := range e.files {
		if f.Version != 0 {
			e.version = f.Version
		}
		sections := e.sections(i)
		maps.Copy(e.plugins, sections)
		for name := range sections {
			last[name] = i
		}
	}
	name := pluginInEffect(e.rules, e.version)
	for i := range e.files {
		for plugin := range e.sections(i) {
			switch {
			case e.version >= 2 && strings.Count(plugin, ".") < 3:
				e.fault(i, "short-plugin-name", fmt.Sprintf("containerd does not start with the name %q in a "+
					"configuration of version 2", plugin), "write its full name, for cri "+hostconfig.PluginV2, "plugins", plugin)
			case !slices.Contains(registryNames(), plugin):
			case plugin != name:
				e.ignore(i, plugin, true, fmt.Sprintf("a configuration of version %d has it under %q", min(e.version, 2), name))
			case last[plugin] != i:
				e.ignore(i, plugin, true, fmt.Sprintf("%s replaces the whole section", e.files[last[plugin]].Path))
			}
		}
	}
}

// mergeThenMigrate follows LoadConfig of cmd/containerd/server/config/config.go and New of server.go, 2.0.14 and 2.2.9.
func (e *evaluator) mergeThenMigrate() {
	for i, f := range e.files {
		sections, version := e.sections(i), f.Version
		if version < 2 {
			e.tooNew() // MigrateConfigTo panics
			e.rename(i, sections)
			version = e.version
		} else {
			e.ignoreV1(i, sections)
		}
		merge(e.plugins, sections)
		e.version = version
	}
	old := registryOf(e.plugins, hostconfig.PluginV2)
	if e.version < 3 {
		e.migrated = old != nil
		migrate(e.plugins)
	}
	for i := range e.files {
		for _, plugin := range []string{hostconfig.PluginV1, hostconfig.PluginV2} {
			if e.has(i, plugin) && e.version >= 3 && (plugin == hostconfig.PluginV2 || e.files[i].Version < 2) {
				e.ignore(i, plugin, true, e.whyVersion3())
			}
		}
		if e.migrated && e.hasRegistry(i, hostconfig.PluginV3) {
			e.ignore(i, hostconfig.PluginV3, false, fmt.Sprintf("the registry table of %q replaces it",
				hostconfig.PluginV2))
		}
	}
}

// whyVersion3 says which file makes the old names ineffective.
func (e *evaluator) whyVersion3() string {
	for _, f := range slices.Backward(e.files) {
		if f.Version >= 3 {
			return fmt.Sprintf("%s is of version %d, and then containerd %s for all files", f.Path, f.Version,
				"knows only the names of version 3")
		}
	}
	return "there is no `version` in the root file, and then this line of containerd knows only the names of version 3"
}

// migrateThenMerge follows LoadConfigWithPlugins of cmd/containerd/server/config/config.go, 2.3.0 and 2.4.2.
func (e *evaluator) migrateThenMerge() {
	for i, f := range e.files {
		sections := e.sections(i)
		if f.Version < e.version {
			e.tooNew() // MigrateConfigTo panics
		}
		if f.Version < 2 {
			e.rename(i, sections)
		} else {
			e.ignoreV1(i, sections)
		}
		switch {
		case f.Version >= e.version:
			e.version = f.Version
			if e.hasRegistry(i, hostconfig.PluginV2) {
				e.ignore(i, hostconfig.PluginV2, false, fmt.Sprintf("the file is of version %d", f.Version))
			}
		default:
			if migrate(sections) && e.hasRegistry(i, hostconfig.PluginV3) {
				e.ignore(i, hostconfig.PluginV3, false, "an older name's registry table in the same file replaces it")
			}
		}
		merge(e.plugins, sections)
	}
}

// rename follows v1Migrate: names without a dot get the full one.
func (e *evaluator) rename(i int, sections table) {
	old, ok := sections[hostconfig.PluginV1]
	if !ok {
		return
	}
	if _, both := sections[hostconfig.PluginV2]; both {
		e.fault(i, "two-names", fmt.Sprintf("it has the CRI plugin as %q and as %q; containerd takes either, by chance",
			hostconfig.PluginV1, hostconfig.PluginV2), "merge the two sections", "plugins", hostconfig.PluginV1)
	}
	delete(sections, hostconfig.PluginV1)
	sections[hostconfig.PluginV2] = old
}

func (e *evaluator) ignoreV1(i int, sections table) {
	if _, ok := sections[hostconfig.PluginV1]; ok {
		e.ignore(i, hostconfig.PluginV1, true, fmt.Sprintf("a file of version %d has other names", e.files[i].Version))
	}
}

// migrate follows migrateConfig of plugins/cri/images/plugin.go, 2.0.14 and 2.4.2: the registry replaces the other.
func migrate(plugins table) bool {
	registry := registryOf(plugins, hostconfig.PluginV2)
	if registry == nil {
		return false
	}
	images, _ := plugins[hostconfig.PluginV3].(table)
	images = maps.Clone(images)
	if images == nil {
		images = table{}
	}
	images["registry"] = registry
	plugins[hostconfig.PluginV3] = images
	return true
}

// merge follows mergo.Merge with WithOverride, dario.cat/mergo 1.0.1 and 1.0.2, for maps: an empty value overrides too.
func merge(to, from table) {
	for k, v := range from {
		sub, ok := v.(table)
		if old, was := to[k].(table); ok && was {
			old = maps.Clone(old)
			merge(old, sub)
			to[k] = old
			continue
		}
		to[k] = v
	}
}
