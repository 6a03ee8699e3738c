package configtoml

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Options change what Plan does.
type Options struct {
	// Convert lets Plan take away `mirrors`, and on 1.x configs.*.tls, with which config_path cannot be. What they say
	// is then in Edit.Converted, to be written to the hosts directory before the edit.
	Convert bool
	// AcceptLost lets Plan edit a configuration in which one file makes containerd ignore what another says of the CRI
	// plugin: runtimes, say, or the cgroup driver. A restart would drop these if the daemon does not run without them
	// already, which is the case when it was started after the last change (File.ModTime).
	AcceptLost bool
}

// Edit is a change of one file.
type Edit struct {
	// Path is the file on the node, with no symlink in it. Empty means that nothing is to be changed.
	Path string
	// Old is what was read; nil where the file, and perhaps its directory, is to be created.
	Old, New []byte
	// Mode are the file's permissions.
	Mode fs.FileMode
	// Why says in one line what changes.
	Why string
	// Warnings are about the edit. They hold no secrets.
	Warnings []hostconfig.Warning
	// Converted are the registries that the removed tables described; see Options. Logins in configs.*.auth stay in the
	// file, where containerd still uses them.
	Converted []hostconfig.Registry
}

// IsZero reports that there is nothing to change.
func (e Edit) IsZero() bool { return e.Path == "" }

// String says what changes. Nothing prints the bytes by accident: they may hold passwords.
func (e Edit) String() string { return e.Why }

// GoString is String.
func (e Edit) GoString() string { return e.Why }

// Diff returns the change for people, as a unified diff, with what may be secret replaced by …; it cannot be applied.
func (e Edit) Diff() string {
	oldName := e.Path
	if e.Old == nil {
		oldName = "/dev/null"
	}
	return unified(oldName, e.Path, lines(redacted(e.Old)), lines(redacted(e.New)))
}

// newFile is what is written where there is no file at all. Version 2 and its names are read by every containerd from
// 1.6 to 2.4.
const newFile = `version = 2

[plugins."%s".registry]
  config_path = "%s"
`

const newFileMode fs.FileMode = 0o644

// target is a place where config_path may go.
type target struct {
	file   int
	plugin string
}

// Plan returns the smallest edit after which hostsDir is config_path in effect, alone. It is the zero Edit if that is
// so already. Before it returns an edit it parses the result and evaluates the whole configuration with it: nothing but
// config_path may differ. Where that cannot be had the error is a *RefusedError.
func (c *Config) Plan(hostsDir string, o Options) (Edit, error) {
	if err := validDir(hostsDir); err != nil {
		return Edit{}, err
	}
	if faults := c.allFaults(); len(faults) > 0 {
		return Edit{}, refuseFaults(faults)
	}
	conv, err := c.conversion()
	if err != nil {
		return Edit{}, err
	}
	if o.Convert && !conv.isZero() {
		if err := conv.describe(c); err != nil {
			return Edit{}, err
		}
	}
	if conv.isZero() && c.ConfigPath().isExactly(hostsDir) {
		return Edit{}, nil
	}
	if disabled := c.disabled(); len(disabled) > 0 {
		return Edit{}, refuseFaults(disabled)
	}
	if lost := c.lost(); len(lost) > 0 && !o.AcceptLost {
		return Edit{}, refuseFaults(lost)
	}
	if !c.Exists() {
		return c.create(hostsDir), nil
	}
	edit, err := c.edit(hostsDir, conv)
	switch {
	case err != nil && !conv.isZero():
		return Edit{}, c.refuseTwoFiles(hostsDir, conv, err)
	case err != nil:
		return Edit{}, err
	case !conv.isZero() && !o.Convert:
		return Edit{}, c.refuseMirrors(conv, edit)
	}
	return edit, nil
}

// validDir refuses what could not be written in either kind of quotes, and what is no single directory to containerd.
func validDir(dir string) error {
	isOdd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\:`, r) }
	if !path.IsAbs(dir) || path.Clean(dir) != dir || strings.ContainsFunc(dir, isOdd) {
		return fmt.Errorf("plan containerd's configuration: hosts directory %q must be an absolute path in its plain form, "+
			"in printable ASCII without spaces, quotes, colons and backslashes", dir)
	}
	return nil
}

func refuseFaults(faults []fault) *RefusedError {
	r := &RefusedError{Code: faults[0].code, Reason: fmt.Sprintf("%s: %s", faults[0].where(), faults[0].message)}
	if n := len(faults) - 1; n > 0 {
		r.Reason += fmt.Sprintf(" (and %d more)", n)
	}
	for _, f := range faults {
		r.Manual = append(r.Manual, Step{File: f.file, Line: f.line, Note: f.todo})
	}
	return r
}

// isExactly reports whether a file, and no default, sets this directory. A slash at the end makes no difference.
func (s Setting) isExactly(dir string) bool {
	return !s.Default && s.Value != "" && path.Clean(s.Value) == dir
}

func (c *Config) create(hostsDir string) Edit {
	file := c.Path
	if dir, err := c.node.resolve(strings.TrimPrefix(path.Dir(file), "/")); err == nil {
		file = path.Join("/", dir, path.Base(file))
	}
	return Edit{
		Path: file, New: fmt.Appendf(nil, newFile, hostconfig.PluginV2, hostsDir), Mode: newFileMode,
		Why:      fmt.Sprintf("%s does not exist: create it with config_path = %q", file, hostsDir),
		Warnings: c.dropped(file, hostsDir),
	}
}

// edit tries the places in order of preference and returns the first edit that does what it should.
func (c *Config) edit(hostsDir string, conv conversion) (Edit, error) {
	if c.ConfigPath().isExactly(hostsDir) {
		return c.editAt(conv.at, "", hostsDir, conv)
	}
	var first error
	for _, t := range c.targets() {
		if !conv.isZero() && t != conv.at {
			continue
		}
		edit, err := c.editAt(t, hostsDir, hostsDir, conv)
		if err == nil {
			return edit, nil
		}
		if first == nil {
			first = err
		}
	}
	root := c.Files[0]
	return Edit{}, &RefusedError{
		Code:   "no-safe-edit",
		Reason: fmt.Sprintf("no line of the configuration sets config_path and nothing else: %v", first),
		Manual: []Step{{File: root.Real, Note: fmt.Sprintf("set config_path = %q in [plugins.%q.registry]", hostsDir,
			c.homeOf(0))}},
	}
}

// targets lists where config_path may go, the best first: where it is in effect now; in the root file; wherever else the
// registry or the plugin has a section, the last file first, as it has the last word.
func (c *Config) targets() []target {
	var out []target
	add := func(t target) {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	if l, ok := c.result.registry["config_path"].(leaf); ok {
		add(target{l.file, l.plugin})
	}
	if c.rules.Merge != hostconfig.ReplaceSections {
		add(target{0, c.homeOf(0)})
		add(target{0, hostconfig.PluginV3})
	}
	for _, key := range [][]string{{"registry"}, nil} {
		for i := range slices.Backward(c.Files) {
			for _, plugin := range registryNames() {
				if c.Files[i].lineUnder(append([]string{"plugins", plugin}, key...)...) > 0 {
					add(target{i, plugin})
				}
			}
		}
	}
	add(target{0, c.homeOf(0)})
	return out
}

// homeOf returns the plugin's name in the style of a file.
func (c *Config) homeOf(file int) string {
	f := &c.Files[file]
	switch {
	case c.rules.Merge == hostconfig.ReplaceSections:
		return pluginInEffect(c.rules, c.result.version)
	case f.Version >= 3:
		return hostconfig.PluginV3
	case f.Version == 2:
		return hostconfig.PluginV2
	case f.lineUnder("plugins", hostconfig.PluginV1) > 0:
		return hostconfig.PluginV1
	case f.lineUnder("plugins", hostconfig.PluginV2) > 0:
		return hostconfig.PluginV2
	default:
		return hostconfig.PluginV3
	}
}

// editAt writes value at t, unless it is empty, takes away what conv says, and checks that hostsDir is then in effect.
func (c *Config) editAt(t target, value, hostsDir string, conv conversion) (Edit, error) {
	f := &c.Files[t.file]
	key := pathTo(t.plugin)
	changes := conv.removals
	if value != "" {
		changes = append([]change{f.setKey(key, value)}, changes...)
	}
	edited := *f
	edited.Data = apply(f.Data, changes)
	if fault, ok := edited.parse(c.Version); !ok {
		return Edit{}, fmt.Errorf("%s: after the edit %s", f.Path, fault.message)
	}
	if err := c.check(t, &edited, hostsDir, conv); err != nil {
		return Edit{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	out := Edit{
		Path: f.Real, Old: f.Data, New: edited.Data, Mode: f.Mode,
		Warnings:  c.dropped(f.Real, hostsDir),
		Converted: conv.registries,
	}
	var why []string
	if value != "" {
		why = append(why, fmt.Sprintf("config_path in %s, line %d, [plugins.%q.registry]: %q becomes %q", f.Real,
			edited.lineOf(key...), t.plugin, c.ConfigPath().Value, hostsDir))
	}
	if !conv.isZero() {
		why = append(why, fmt.Sprintf("%s go from %s", c.legacyNames(), f.Real))
	}
	out.Why = strings.Join(why, ", and ")
	if w, ok := f.notOurs(); ok {
		out.Warnings = append(out.Warnings, w)
	}
	return out, nil
}

// dropped tells of directories that containerd no longer reads. Those of its default are worth a word only if there is
// something in them.
func (c *Config) dropped(file, hostsDir string) []hostconfig.Warning {
	var out []hostconfig.Warning
	s := c.ConfigPath()
	for dir := range strings.SplitSeq(s.Value, ":") {
		if dir == "" || path.Clean(dir) == hostsDir {
			continue
		}
		if list, err := c.node.ReadDir(strings.TrimPrefix(path.Clean(dir), "/")); s.Default && err == nil && len(list) == 0 ||
			s.Default && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out = append(out, hostconfig.Warning{
			Code: "directory-dropped", Severity: hostconfig.Warn, Where: file,
			Message: fmt.Sprintf("containerd no longer reads %s; move what is needed of it to %s", dir, hostsDir),
		})
	}
	return out
}
