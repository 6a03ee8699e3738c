package hostconfig

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// LintContainerdConfig returns what containerd v would silently do with the registry settings of one config.toml. It
// sees this file only: drop-ins that it imports may change the result, so it reports only what holds whatever they say,
// or says that they matter. The zero v stands for any version.
func LintContainerdConfig(data []byte, v Version) []Warning {
	l := configLinter{v: v}
	var doc map[string]any
	if err := toml.Unmarshal(data, &doc); err != nil {
		l.add(Severe, "bad-toml", "", "containerd does not start with this file: %v", tomlError(err))
		return l.list
	}
	l.doc = doc
	l.version()
	l.imports()
	for _, s := range l.sections() {
		l.registry(s)
	}
	l.transfer()
	return l.list
}

// LintRegistry does the same for one registry table, which is in effect. where names it in the warnings.
func LintRegistry(table map[string]any, where string, v Version) []Warning {
	l := configLinter{v: v}
	l.registry(section{where: where, table: table})
	return l.list
}

type configLinter struct {
	warnings
	v   Version
	doc map[string]any
	n   int64 // `version`; 0 when the file has none
}

// section is the registry table of one plugin.
type section struct {
	where string
	table map[string]any
}

func (l *configLinter) version() {
	switch n := l.doc["version"].(type) {
	case nil:
	case int64:
		l.n = n
	default:
		l.add(Severe, "bad-version", "version", "version must be a number; containerd does not start")
	}
	switch {
	case l.n > 4:
		l.add(Severe, "version-too-new", "version", "no containerd up to 2.4 knows version %d", l.n)
	case l.n == 4:
		l.addVersions(l.v, maxConfig3, Severe, "version-too-new", "version",
			"containerd before 2.3 does not start with version 4")
		for _, key := range []string{"grpc", "ttrpc"} {
			if _, ok := l.doc[key]; ok {
				l.add(Severe, "ignored-section", key, "with version 4 containerd ignores [%s] silently and listens on "+
					"its default socket; write [plugins.\"io.containerd.server.v1.%s\"]", key, key)
			}
		}
	case l.n == 3:
		l.addVersions(l.v, maxConfig2, Severe, "version-too-new", "version",
			"containerd before 2.0 does not start with version 3 (1.6.20 starts and ignores the sections it does "+
				"not know)")
	case l.n < 2:
		for _, name := range []string{PluginV2, PluginV3} {
			if l.plugin(name) != nil {
				l.addVersions(l.v, ignoresURIKeys, Severe, "no-version", "plugins."+name,
					"containerd 1.x ignores sections with such names in a file without `version = 2`")
			}
		}
		for _, name := range []string{PluginV1, PluginV2} {
			if l.plugin(name) != nil {
				l.addVersions(l.v, losesUnversioned, Severe, "no-version", "plugins."+name,
					"containerd 2.0 to 2.2 ignore this section in a file without `version = 2`")
			}
		}
	}
}

func (l *configLinter) plugin(name string) map[string]any {
	plugins, _ := l.doc["plugins"].(map[string]any)
	p, _ := plugins[name].(map[string]any)
	return p
}

func (l *configLinter) imports() {
	list, _ := l.doc["imports"].([]any)
	if len(list) == 0 {
		l.add(Info, "no-imports", "imports", "without `imports` no drop-in is loaded, /etc/containerd/conf.d neither, "+
			"whatever `containerd config dump` prints")
		return
	}
	l.addVersions(l.v, replacesSections, Warn, "drop-in-replaces", "imports", "containerd 1.x replaces whole plugin "+
		"sections: a drop-in with only config_path erases the runtimes and the cgroup driver")
	if l.n == 2 {
		l.addVersions(l.v, migratesRootOnly, Warn, "drop-in-version", "imports", "with containerd 2.0 to 2.2, a "+
			"drop-in of version 3 makes this file's version 2 sections ineffective; use version 2 drop-ins")
	}
	if l.n < 4 {
		l.addVersions(l.v, refusesNewerDropIn, Warn, "drop-in-version", "imports", "containerd 2.3.0 to 2.3.4 do not "+
			"start when a drop-in has a higher version than this file")
	}
}

// sections returns the registry tables that count, and warns of those that do not.
func (l *configLinter) sections() []section {
	var out []section
	for _, name := range []string{PluginV1, PluginV2, PluginV3} {
		p := l.plugin(name)
		table, ok := p["registry"].(map[string]any)
		if !ok {
			continue
		}
		where := fmt.Sprintf("plugins.%q.registry", name)
		switch {
		case name == PluginV1 && l.n >= 2:
			l.add(Severe, "ignored-section", where, "with version %d containerd ignores this section; write %s", l.n,
				pluginFor(l.n))
			l.addVersions(l.v, refusesShortKeys, Severe, "short-plugin-name", where, "containerd 1.x does not start "+
				"with a plugin of such a name in a file of version 2")
		case name == PluginV2 && l.n == 3 && l.v.certainly(migratesEachFile):
			out = append(out, section{where: where, table: table})
		case name == PluginV2 && l.n >= 3:
			l.add(Severe, "ignored-section", where, "with version %d containerd ignores registry settings here "+
				"(2.3 and later do not in version 3); write [plugins.%q.registry]", l.n, PluginV3)
		case name == PluginV3 && l.v.certainly(maxConfig2):
			l.add(Severe, "ignored-section", where, "containerd %s does not know this plugin; write "+
				"[plugins.%q.registry]", l.v, PluginV2)
		default:
			out = append(out, section{where: where, table: table})
		}
	}
	if len(out) == 0 {
		l.unset("")
	}
	return out
}

func pluginFor(version int64) string {
	if version >= 3 {
		return fmt.Sprintf("[plugins.%q.registry]", PluginV3)
	}
	return fmt.Sprintf("[plugins.%q.registry]", PluginV2)
}

func (l *configLinter) unset(where string) {
	l.add(Info, "no-config-path", where, "this file sets no config_path, so containerd before 2.2 reads no "+
		"hosts.toml; 2.2 and later have a default of two directories, which the default way of pulling does not "+
		"read either")
}

func (l *configLinter) registry(s section) {
	configPath, ok := s.table["config_path"].(string)
	where := s.where + ".config_path"
	if !ok || configPath == "" {
		l.unset(where)
		if isSet(s.table["mirrors"]) {
			l.addVersions(l.v, hasDefaultPath, Warn, "mirrors", s.where+".mirrors", "containerd 2.2.0 and 2.2.1 "+
				"do not serve pods with `mirrors`, because config_path has a default; mirrors are deprecated")
		}
		return
	}
	if isSet(s.table["mirrors"]) {
		l.add(Severe, "mirrors-and-config-path", s.where+".mirrors", "`mirrors` beside config_path removes the CRI "+
			"plugin: containerd runs, and the node goes NotReady; move the mirrors to hosts.toml")
	}
	l.legacyTLS(s)
	dirs := strings.Split(configPath, ":")
	if len(dirs) > 1 {
		l.addVersions(l.v, configPathIsOneDir, Severe, "config-path-list", where, "containerd 2.1 and later take "+
			"%q for one directory and read no hosts.toml; name one", configPath)
	}
	if slices.ContainsFunc(dirs, func(d string) bool { return !path.IsAbs(d) }) {
		l.add(Severe, "relative-config-path", where, "%q is relative, and so depends on where containerd was started; "+
			"write an absolute path", configPath)
	}
}

// isSet tells a table that has something in it from the empty one that `containerd config default` prints.
func isSet(value any) bool {
	table, ok := value.(map[string]any)
	return value != nil && (!ok || len(table) > 0)
}

func (l *configLinter) legacyTLS(s section) {
	configs, _ := s.table["configs"].(map[string]any)
	for _, host := range slices.Sorted(maps.Keys(configs)) {
		c, _ := configs[host].(map[string]any)
		if _, ok := c["tls"]; !ok {
			continue
		}
		where := fmt.Sprintf("%s.configs.%q.tls", s.where, host)
		if l.v.possibly(refusesLegacyTLS) {
			l.addVersions(l.v, refusesLegacyTLS, Severe, "legacy-tls", where, "beside config_path this removes the "+
				"CRI plugin of containerd 1.x; move it to hosts.toml")
		} else {
			l.add(Warn, "legacy-tls", where, "containerd 2.x ignores this; move it to hosts.toml")
		}
	}
}

func (l *configLinter) transfer() {
	const name = "io.containerd.transfer.v1.local"
	if _, ok := l.plugin(name)["config_path"]; ok {
		l.add(Warn, "transfer-config-path", fmt.Sprintf("plugins.%q.config_path", name), "nothing reads this; set "+
			"config_path of the CRI plugin's registry")
	}
}
