package configtoml

import (
	"fmt"
	"slices"
)

// tooNew adds a fault, once, if the version so far is one that the daemon does not know.
func (e *evaluator) tooNew() {
	isTold := slices.ContainsFunc(e.faults, func(f fault) bool { return f.code == "version-too-new" })
	if e.rules.MaxVersion == 0 || e.version <= e.rules.MaxVersion || isTold {
		return
	}
	for i, f := range slices.Backward(e.files) {
		if f.Version == e.version {
			e.fault(i, "version-too-new", fmt.Sprintf("containerd does not start: it knows versions up to %d, and this is %d",
				e.rules.MaxVersion, f.Version), fmt.Sprintf("write version = %d, and the names of that version", e.rules.MaxVersion),
				"version")
			return
		}
	}
}

// newerDropIn follows LoadConfigWithPlugins of cmd/containerd/server/config/config.go, 2.3.4.
func (e *evaluator) newerDropIn() {
	var root int64
	for i, f := range e.files {
		if root == 0 {
			root = f.Version
		}
		if f.Version > root {
			e.fault(i, "newer-drop-in", fmt.Sprintf("containerd 2.3.0 to 2.3.4 do not start with a drop-in of version %d "+
				"and a root file of version %d", f.Version, root), fmt.Sprintf("write version = %d, and the names of that version",
				root), "version")
		}
	}
}

// checkTypes finds values of a type with which containerd does not start.
func (e *evaluator) checkTypes() {
	for i, f := range e.files {
		if _, ok := f.doc["plugins"].(table); f.doc["plugins"] != nil && !ok {
			e.badType(i, "table", "plugins")
		}
		for _, name := range registryNames() {
			plugins, _ := f.doc["plugins"].(table)
			section, ok := plugins[name].(table)
			if plugins[name] != nil && !ok {
				e.badType(i, "table", "plugins", name)
			}
			registry, ok := section["registry"].(table)
			if section["registry"] != nil && !ok {
				e.badType(i, "table", "plugins", name, "registry")
			}
			if _, ok := registry["config_path"].(string); registry["config_path"] != nil && !ok {
				e.badType(i, "string", "plugins", name, "registry", "config_path")
			}
			for _, key := range []string{"mirrors", "configs"} {
				if _, ok := registry[key].(table); registry[key] != nil && !ok {
					e.badType(i, "table", "plugins", name, "registry", key)
				}
			}
		}
	}
}

func (e *evaluator) badType(i int, want string, key ...string) {
	e.fault(i, "bad-type", fmt.Sprintf("%s must be a %s; containerd does not start", dottedName(key), want),
		"make it a "+want, key...)
}

func (e *evaluator) fault(i int, code, message, todo string, key ...string) {
	e.faults = append(e.faults, fault{
		code: code, file: e.files[i].Path, line: e.files[i].lineUnder(key...), message: message, todo: todo,
	})
}

func (e *evaluator) ignore(i int, plugin string, whole bool, because string) {
	e.ignored = append(e.ignored, ignored{file: i, plugin: plugin, whole: whole, because: because})
}

func (e *evaluator) has(i int, plugin string) bool {
	plugins, _ := e.files[i].doc["plugins"].(table)
	return plugins[plugin] != nil
}

func (e *evaluator) hasRegistry(i int, plugin string) bool {
	plugins, _ := e.files[i].doc["plugins"].(table)
	return registryOf(plugins, plugin) != nil
}

// lineUnder returns the first line that is about key or something below it, from 1; 0 if there is none.
func (f *File) lineUnder(key ...string) int {
	for _, s := range f.statements {
		if hasPrefix(s.path, key) || s.at(key) != nil {
			return s.line
		}
	}
	return 0
}
