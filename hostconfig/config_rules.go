package hostconfig

// The names that the CRI plugin's registry settings stand under in config.toml, by the file's `version`.
const (
	PluginV1 = "cri"
	PluginV2 = "io.containerd.grpc.v1.cri"
	PluginV3 = "io.containerd.cri.v1.images"
)

// ConfigRules says how one containerd version reads config.toml and the files that it imports. rules.go has the source
// of each rule.
type ConfigRules struct {
	// MaxVersion is the newest `version` that the daemon starts with; 0 if it takes any number.
	MaxVersion int64
	// Merge says what a drop-in does to the files before it.
	Merge DropInMerge
	// RefusesNewerDropIn: the daemon does not start when a drop-in has a higher version than the root file.
	RefusesNewerDropIn bool
	// GlobsFromWorkDir: a relative pattern in `imports` is looked up from the daemon's working directory.
	GlobsFromWorkDir bool
	// RefusesLegacyTLS: configs.*.tls has an effect, and beside config_path it takes CRI down.
	RefusesLegacyTLS bool
	// DefaultPath is config_path where no file sets it.
	DefaultPath string
	// EmptyIsDefault: config_path = "" means DefaultPath too, unless there are mirrors.
	EmptyIsDefault bool
}

// DropInMerge is how a containerd version puts the files together.
type DropInMerge int

const (
	// ReplaceSections means that the last file that has a plugin's section gives all of it. The last `version` is that of the
	// whole.
	ReplaceSections DropInMerge = iota
	// MergeThenMigrate means that sections are merged key by key, the last `version` is that of the whole, and below 3 the
	// registry of PluginV2 then replaces the one of PluginV3. Files without version and of version 1 count as the
	// newest version so far.
	MergeThenMigrate
	// MigrateThenMerge means the same with each file on its own, and then sections are merged key by key.
	MigrateThenMerge
)

// ConfigRules returns the rules of v. There are none for an unknown version and for a major version that hotplate does
// not know; a newer minor version is taken to do as the newest known one.
func (v Version) ConfigRules() (ConfigRules, bool) {
	if v.IsZero() || v.Major > 2 {
		return ConfigRules{}, false
	}
	r := ConfigRules{
		MaxVersion:         4,
		Merge:              MigrateThenMerge,
		RefusesNewerDropIn: v.certainly(refusesNewerDropIn),
		GlobsFromWorkDir:   v.certainly(globsFromWorkDir16) || v.certainly(globsFromWorkDir17),
		RefusesLegacyTLS:   v.certainly(refusesLegacyTLS),
		EmptyIsDefault:     v.certainly(emptyIsDefault),
	}
	switch {
	case v.certainly(anyConfigVersion16), v.certainly(anyConfigVersion17):
		r.MaxVersion = 0
	case v.certainly(maxConfig2):
		r.MaxVersion = 2
	case v.certainly(maxConfig3):
		r.MaxVersion = 3
	}
	switch {
	case v.certainly(replacesSections):
		r.Merge = ReplaceSections
	case !v.certainly(migratesEachFile):
		r.Merge = MergeThenMigrate
	}
	if v.certainly(hasDefaultPath) {
		r.DefaultPath = "/etc/containerd/certs.d:/etc/docker/certs.d"
	}
	return r, true
}
