package hostconfig

// trait is something that only some containerd versions do. The table below is the one place that knows which.
type trait int

const (
	// needsHostTable: a hosts.toml without a [host] table is rejected as a whole, and pulls go to upstream.
	needsHostTable trait = iota
	// knowsReferrers: the capability "referrers" exists; elsewhere an unknown capability rejects the whole file.
	knowsReferrers
	// dropsInlineHosts: a host counts only with a [host."URL"] table header; inline and dotted forms are dropped.
	dropsInlineHosts
	// rejectsBracketTables: a table header with a bracket in its key, such as [host."https://[fd00::1]"], rejects the
	// whole file, however it is quoted.
	rejectsBracketTables
	// honoursDialTimeout: dial_timeout has an effect, and a bad value rejects the whole file. Elsewhere the key is
	// ignored, whatever its value.
	honoursDialTimeout
	// dialTimeoutTriesHTTPS: dial_timeout counts as a TLS option, so an http:// host is first tried with https.
	dialTimeoutTriesHTTPS
	// portlessHTTPStaysHTTP: an http:// host without a port is not tried with https first, TLS options or not.
	portlessHTTPStaysHTTP
	// httpStaysHTTP16 and 17: the same for every http:// host, in the two lines that came before that rule.
	httpStaysHTTP16
	httpStaysHTTP17
	// headerToTokenServer: the header of a host also goes to the token server that the host points to.
	headerToTokenServer
	// hangsWithoutFallback: a mirror that accepts a connection and never answers blocks the pull for good.
	hangsWithoutFallback
	// configPathIsOneDir: config_path must be one directory; a list separated by colons is read by nothing.
	configPathIsOneDir
	// maxConfig2, maxConfig3: the newest `version` that config.toml may have.
	maxConfig2
	maxConfig3
	// anyConfigVersion16 and 17: a `version` above 2 is taken for 2.
	anyConfigVersion16
	anyConfigVersion17
	// ignoresURIKeys: plugin sections with names like io.containerd.grpc.v1.cri are ignored in a config.toml that
	// has no `version`.
	ignoresURIKeys
	// refusesShortKeys: a plugin section with a name like cri stops the daemon from starting when `version` is 2.
	refusesShortKeys
	// losesUnversioned: the CRI plugin's settings under their names of version 1 and 2 are lost in a config.toml
	// that has no `version`, or version 1.
	losesUnversioned
	// replacesSections: a drop-in replaces whole plugin sections of the root file.
	replacesSections
	// migratesRootOnly: a drop-in of version 3 keeps a version 2 root from being migrated.
	migratesRootOnly
	// migratesEachFile: each file is brought to the newest version on its own, those of version 3 too, and the CRI
	// plugin's registry of version 2 then replaces the one of version 3 in the same file.
	migratesEachFile
	// globsFromWorkDir16 and 17: a relative pattern in `imports` is looked up from the daemon's working directory
	// instead of the directory of the importing file.
	globsFromWorkDir16
	globsFromWorkDir17
	// refusesNewerDropIn: a drop-in of a higher version than the root's stops the daemon from starting.
	refusesNewerDropIn
	// refusesLegacyTLS: registry.configs.*.tls beside config_path removes the CRI plugin; elsewhere it is ignored.
	refusesLegacyTLS
	// hasDefaultPath: config_path has a default with two directories in it.
	hasDefaultPath
	// emptyIsDefault: an empty config_path means that default, unless there are mirrors.
	emptyIsDefault
)

// rule says which versions have a trait: those from `from`, before `before`. A zero Version leaves that end open.
type rule struct {
	from, before Version
	source       string
}

// rule returns the table's entry. "Measured" means: seen on running daemons of 1.6.20 to 2.4.2.
func (t trait) rule() rule {
	const hosts = "core/remotes/docker/config/hosts.go"
	return [...]rule{
		needsHostTable: {before: Version{1, 7, 32},
			source: "remotes/docker/config/hosts.go getSortedHosts, 1.6.36, 1.7.31 and 1.7.35; measured"},
		knowsReferrers:   {from: Version{2, 2, 0}, source: hosts + " parseHostConfig, 2.1.9 and 2.2.9; measured"},
		dropsInlineHosts: {from: Version{2, 0, 0}, source: hosts + " getSortedHosts, 2.0.14; measured"},
		rejectsBracketTables: {before: Version{2, 0, 0},
			source: "go-toml v1.9.5 lexInsideTableKey, which 1.6 and 1.7 use; seen with 1.7.35's ConfigureHosts"},
		honoursDialTimeout: {from: Version{2, 0, 7}, source: hosts + " parseHostConfig, 2.0.7 and 2.1.0; measured"},
		dialTimeoutTriesHTTPS: {from: Version{2, 0, 7}, before: Version{2, 1, 0},
			source: hosts + " ConfigureHosts sets explicitTLS, 2.0.7 and 2.0.14; not 2.1.0"},
		portlessHTTPStaysHTTP: {before: Version{1, 7, 0},
			source: "remotes/docker/config/hosts.go ConfigureHosts, 1.6.36 and 1.7.31"},
		httpStaysHTTP16: {before: Version{1, 6, 25},
			source: "remotes/docker/config/hosts.go ConfigureHosts, 1.6.24 and 1.6.25; measured on 1.6.20"},
		httpStaysHTTP17: {from: Version{1, 7, 0}, before: Version{1, 7, 7},
			source: "remotes/docker/config/hosts.go ConfigureHosts, 1.7.6 and 1.7.7"},
		headerToTokenServer: {from: Version{2, 1, 0}, source: hosts + " WithAuthHeader, 2.0.14 and 2.1.9"},
		hangsWithoutFallback: {before: Version{2, 3, 4},
			source: "core/remotes/docker/resolver.go DefaultHTTPTransport: ResponseHeaderTimeout, in 2.3.4; " +
				"measured on 1.7.35, 2.2.9, 2.3.7 and 2.4.2"},
		configPathIsOneDir: {from: Version{2, 1, 0}, source: "core/transfer/registry/registry.go; measured to 2.4.2"},
		maxConfig2:         {before: Version{2, 0, 0}, source: "measured: 1.6.36 and 1.7.35 do not start with 3"},
		maxConfig3:         {before: Version{2, 3, 0}, source: "measured: 2.0.14 to 2.2.9 do not start with 4"},
		anyConfigVersion16: {before: Version{1, 6, 32},
			source: "services/server/config/config.go ValidateV2, 1.6.31 and 1.6.32; measured on 1.6.20"},
		anyConfigVersion17: {from: Version{1, 7, 0}, before: Version{1, 7, 17},
			source: "services/server/config/config.go ValidateV2, 1.7.16 and 1.7.17"},
		ignoresURIKeys: {before: Version{2, 0, 0}, source: "docs/PLUGINS.md, 1.7.35"},
		refusesShortKeys: {before: Version{2, 0, 0},
			source: "services/server/config/config.go ValidateV2, 1.6.20 and 1.7.35; measured on 1.7.35"},
		losesUnversioned: {from: Version{2, 0, 0}, before: Version{2, 3, 0},
			source: "cmd/containerd/server/config/config.go LoadConfig raises the version to 3 and " +
				"server.go New then migrates no plugin, 2.0.14 and 2.2.9"},
		replacesSections: {before: Version{2, 0, 0},
			source: "services/server/config/config.go mergeConfig, 1.7.35; measured"},
		migratesRootOnly: {from: Version{2, 0, 0}, before: Version{2, 3, 0}, source: "issue 12891; measured"},
		migratesEachFile: {from: Version{2, 3, 0},
			source: "cmd/containerd/server/config/config.go LoadConfigWithPlugins, 2.3.0 and 2.4.2; " +
				"plugins/cri/images/plugin.go migrateConfig, 2.4.2; measured on 2.4.2"},
		globsFromWorkDir16: {before: Version{1, 6, 30},
			source: "services/server/config/config.go resolveImports, 1.6.28 and 1.6.30"},
		globsFromWorkDir17: {from: Version{1, 7, 0}, before: Version{1, 7, 16},
			source: "services/server/config/config.go resolveImports, 1.7.15 and 1.7.16"},
		refusesNewerDropIn: {from: Version{2, 3, 0}, before: Version{2, 3, 5},
			source: "cmd/containerd/server/config/config.go, 2.3.4; measured, gone in 2.3.7"},
		refusesLegacyTLS: {before: Version{2, 0, 0}, source: "measured on 1.6.20 to 2.4.2"},
		hasDefaultPath:   {from: Version{2, 2, 0}, source: "plugins/cri/images/plugin.go, 2.2.0; measured"},
		emptyIsDefault: {from: Version{2, 2, 2},
			source: "plugins/cri/images/plugin.go InitFn, 2.2.2; internal/cri/config/config_unix.go, 2.2.1"},
	}[t]
}

// certainly reports whether v has the trait. An unknown version has none.
func (v Version) certainly(t trait) bool { return !v.IsZero() && v.possibly(t) }

// possibly reports whether v has the trait or may have it: an unknown version may have each.
func (v Version) possibly(t trait) bool {
	if v.IsZero() {
		return true
	}
	r := t.rule()
	return v.Compare(r.from) >= 0 && (r.before.IsZero() || v.Compare(r.before) < 0)
}
