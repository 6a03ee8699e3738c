package configtoml

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Setting is config_path of the CRI plugin's registry as containerd has it once it has read all files.
type Setting struct {
	// Value is what is in effect; empty where containerd reads no hosts.toml.
	Value string
	// Default says that it is what this version does on its own, and no file.
	Default bool
	// File and Line say where the key is that decides, Plugin under which plugin's name. They are empty where there is
	// none.
	File   string
	Line   int
	Plugin string
}

// String says where the value comes from.
func (s Setting) String() string {
	where := "no file sets it"
	if s.File != "" {
		where = fmt.Sprintf("%s:%d, [plugins.%q.registry]", s.File, s.Line, s.Plugin)
	}
	if s.Default {
		where = "containerd's default, " + where
	}
	return fmt.Sprintf("config_path = %q (%s)", s.Value, where)
}

// ConfigPath returns the value in effect, by the merge and migration rules of the version. Warnings tells what makes it
// ineffective or dangerous all the same.
func (c *Config) ConfigPath() Setting { return c.result.setting(c.Files, c.rules) }

func (o *outcome) setting(files []File, rules hostconfig.ConfigRules) Setting {
	l, ok := o.registry["config_path"].(leaf)
	s := Setting{}
	if ok {
		s.Value, _ = l.value.(string)
		s.File, s.Plugin = files[l.file].Path, l.plugin
		if _, in := files[l.file].find(pathTo(l.plugin)); in != nil {
			s.Line = in.line
		}
	}
	if s.Value != "" || rules.DefaultPath == "" {
		s.Default = !ok
		return s
	}
	mirrors, _ := o.registry["mirrors"].(table)
	switch {
	case rules.EmptyIsDefault:
		s.Default = len(mirrors) == 0
	default: // 2.2.0 and 2.2.1: migrateConfig of plugins/cri/images/plugin.go
		s.Default = !ok || o.migrated
	}
	if s.Default {
		s.Value = rules.DefaultPath
	}
	return s
}

// pathTo returns the key of config_path under a plugin's name.
func pathTo(plugin string) []string { return []string{"plugins", plugin, "registry", "config_path"} }

// Warnings returns what keeps containerd from starting, what makes the setting ineffective or dangerous, and what a
// person should know before changing it. They hold no secrets.
func (c *Config) Warnings() []hostconfig.Warning {
	var out []hostconfig.Warning
	for _, f := range append(c.allFaults(), c.disabled()...) {
		out = append(out, f.warning())
	}
	out = append(out, c.ignoredSections()...)
	out = append(out, c.overridden()...)
	out = append(out, c.inEffect()...)
	out = append(out, c.rootOnly()...)
	for _, f := range c.Files {
		if w, ok := f.notOurs(); ok {
			out = append(out, w)
		}
	}
	return out
}

// disabled tells that containerd does not serve pods at all, as with the file that Docker's package of containerd brings.
func (c *Config) disabled() []fault {
	var out []fault
	for i := range c.Files {
		f := &c.Files[i]
		list, _ := f.doc["disabled_plugins"].([]any)
		for _, item := range list {
			if name, _ := item.(string); slices.Contains(registryNames(), name) {
				out = append(out, fault{
					code: "cri-disabled", file: f.Path, line: f.lineOf("disabled_plugins"),
					message: fmt.Sprintf("%q is disabled, so containerd serves no pods", name),
					todo:    fmt.Sprintf("take %q out of disabled_plugins", name),
				})
			}
		}
	}
	return out
}

// inEffect tells of the registry table that is in effect.
func (c *Config) inEffect() []hostconfig.Warning {
	s := c.ConfigPath()
	file, name := c.Path, "registry"
	if s.File != "" {
		file, name = s.File, fmt.Sprintf("plugins.%q.registry", s.Plugin)
	}
	if s.Value == "" {
		return []hostconfig.Warning{{
			Code: "no-config-path", Severity: hostconfig.Info, Where: file,
			Message: fmt.Sprintf("config_path is not set, so containerd %s reads no hosts.toml", c.Version),
		}}
	}
	registry := plain(c.result.registry)
	registry["config_path"] = s.Value
	return prefix(file, hostconfig.LintRegistry(registry, name, c.Version))
}

func prefix(file string, list []hostconfig.Warning) []hostconfig.Warning {
	for i := range list {
		list[i].Where = file + ": " + list[i].Where
	}
	return list
}

func (c *Config) allFaults() []fault {
	return slices.Concat(c.faults, c.result.faults, c.oddCase())
}

// ignoredSections tells what has no effect. Severe is a section with which settings are lost.
func (c *Config) ignoredSections() []hostconfig.Warning {
	var out []hostconfig.Warning
	for _, ig := range c.result.ignored {
		f := &c.Files[ig.file]
		what, severity := fmt.Sprintf("[plugins.%q.registry]", ig.plugin), hostconfig.Warn
		if ig.whole {
			what = fmt.Sprintf("all of [plugins.%q]", ig.plugin)
		}
		if len(c.lostWith(ig)) > 0 {
			severity = hostconfig.Severe
		}
		out = append(out, hostconfig.Warning{
			Code: "ignored-section", Severity: severity,
			Where:   fmt.Sprintf("%s:%d", f.Path, f.lineUnder("plugins", ig.plugin)),
			Message: fmt.Sprintf("containerd %s ignores %s: %s", c.Version, what, ig.because),
		})
	}
	return out
}

// lostWith returns the settings, other than the registry's, that are in a section without effect and not in the one of
// its name that has it: runtimes, say, or the cgroup driver.
func (c *Config) lostWith(ig ignored) []string {
	if !ig.whole {
		return nil
	}
	plugins, _ := c.Files[ig.file].doc["plugins"].(table)
	section, _ := plugins[ig.plugin].(table)
	inEffect := table{}
	if ig.plugin == pluginInEffect(c.rules, c.result.version) {
		inEffect, _ = c.result.plugins[ig.plugin].(table)
	}
	return missingKeys(without(section, []string{"registry"}), inEffect)
}

func (c *Config) lost() []fault {
	var out []fault
	for _, ig := range c.result.ignored {
		keys := c.lostWith(ig)
		if len(keys) == 0 {
			continue
		}
		f := &c.Files[ig.file]
		out = append(out, fault{
			code: "settings-lost", file: f.Path, line: f.lineUnder("plugins", ig.plugin),
			message: fmt.Sprintf("at its next start containerd %s ignores %s of [plugins.%q], because %s", c.Version,
				strings.Join(keys, ", "), ig.plugin, ig.because),
			todo: "set these where they count, or take them out",
		})
	}
	return out
}

// overridden tells of config_path in a section that counts, where a later file has another.
func (c *Config) overridden() []hostconfig.Warning {
	var out []hostconfig.Warning
	s := c.ConfigPath()
	for i := range c.Files {
		f := &c.Files[i]
		for _, plugin := range registryNames() {
			_, in := f.find(pathTo(plugin))
			isIgnored := slices.ContainsFunc(c.result.ignored, func(ig ignored) bool {
				return ig.file == i && ig.plugin == plugin
			})
			if in == nil || isIgnored || f.Path == s.File && plugin == s.Plugin {
				continue
			}
			out = append(out, hostconfig.Warning{
				Code: "overridden", Severity: hostconfig.Info, Where: fmt.Sprintf("%s:%d", f.Path, in.line),
				Message: fmt.Sprintf("this config_path has no effect, because %s:%d sets it later", s.File, s.Line),
			})
		}
	}
	return out
}

// rootOnly takes over from the linter of single files what does not depend on the other files.
func (c *Config) rootOnly() []hostconfig.Warning {
	if !c.Exists() || c.Files[0].doc == nil {
		return nil
	}
	list := hostconfig.LintContainerdConfig(c.Files[0].Data, c.Version)
	return prefix(c.Path, slices.DeleteFunc(list, func(w hostconfig.Warning) bool {
		isServer := w.Where == "grpc" || w.Where == "ttrpc"
		return w.Code != "no-imports" && w.Code != "transfer-config-path" && !isServer
	}))
}

// oddCase finds keys that differ from those that matter here in nothing but case. containerd takes some of these for the
// real ones (go-toml matches struct fields so), and which, depends on its version.
func (c *Config) oddCase() []fault {
	var out []fault
	for i := range c.Files {
		f := &c.Files[i]
		for _, s := range f.statements {
			s.walk(func(e *entry) bool {
				if name, ok := oddName(e.path); ok {
					out = append(out, fault{
						code: "odd-case", file: f.Path, line: s.line, todo: "write it in lower case",
						message: fmt.Sprintf("whether containerd takes %q for %s depends on its version", name,
							strings.ToLower(name)),
					})
				}
				return true
			})
		}
	}
	return out
}

func oddName(key []string) (string, bool) {
	known := [][]string{{"plugins", "version", "imports"}, registryNames(), {"registry"},
		{"config_path", "mirrors", "configs"}}
	for i, names := range known {
		if i >= len(key) || i == 1 && !slices.Contains(names, key[i]) {
			return "", false
		}
		isName := func(name string) bool { return strings.EqualFold(name, key[i]) }
		if slices.Contains(names, key[i]) {
			continue
		}
		return key[i], slices.ContainsFunc(names, isName)
	}
	return "", false
}

// notOurs tells that another program writes the file.
func (f *File) notOurs() (hostconfig.Warning, bool) {
	w := hostconfig.Warning{Code: "generated", Severity: hostconfig.Warn, Where: f.Path}
	switch comment := f.generatedBy(); {
	case path.Base(f.Path) == "99-nvidia.toml":
		w.Message = "the NVIDIA container toolkit writes this file, with what was in effect at that moment, and " +
			"removes it when it is uninstalled; what is set here must then be set again"
	case strings.Contains(f.Path, "/rancher/"):
		w.Message = "k3s and RKE2 write this file at each start; for a lasting change write config.toml.tmpl beside it"
	case comment != "":
		w.Message = fmt.Sprintf("another program may write this file again: it says %q", comment)
	default:
		return hostconfig.Warning{}, false
	}
	return w, true
}

// generatedBy returns the comment at the top of the file that says so, in printable characters.
func (f *File) generatedBy() string {
	const limit = 100
	says := regexp.MustCompile(`(?i)generated by|do not edit|managed by|auto-?generated|written by`)
	for line := range strings.Lines(string(f.Data)) {
		text, isComment := strings.CutPrefix(strings.TrimSpace(line), "#")
		switch {
		case isComment && says.MatchString(text):
			text = strings.TrimSpace(strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return -1
				}
				return r
			}, text))
			return text[:min(len(text), limit)]
		case !isComment && strings.TrimSpace(line) != "":
			return ""
		}
	}
	return ""
}
