// Package hostconfig knows what containerd makes of a hosts directory (certs.d), and what the directory should hold.
// It is pure: what is on a disk comes in as an fs.FS, and what should be there goes out as a value.
//
// Its steps, towards the disk:
//
//  1. Render makes of the configured registries a Tree: a hosts.toml for each registry host, and the PEM files that
//     these name, all in SharedDir under names made from their content.
//  2. Observe says what the directory holds now. It follows no symlink.
//  3. Diff compares both, and the manifest of what hotplate wrote before, and makes a Plan: changes in an order in
//     which every hosts.toml finds its certificates at any moment, conflicts with what other people wrote, and drift
//     of what is ours. Package apply takes the steps.
//
// And back:
//
//  4. ParseHosts and Explain say what a containerd version makes of a hosts.toml and of a whole directory: which hosts
//     in what order, and whether the registry itself is asked.
//  5. LintRegistries, LintHostsTOML and LintContainerdConfig tell what containerd would do without a word.
//
// Package configtoml does the same for config.toml and what it imports, by the version's ConfigRules.
//
// What differs between containerd versions stands in rules.go, with its source.
//
// The layout on disk:
//
//	.hotplate/ca-<hash>.pem               CA bundles, mode 0644
//	.hotplate/client-<hash>.pem           client certificates, 0644
//	.hotplate/client-<hash>-key.pem       their keys, 0600
//	docker.io/hosts.toml                  0644, or 0600 when it holds a header
//	registry.example.com_5000_/hosts.toml
//
// A hosts.toml names PEM files as ../.hotplate/…, which containerd joins with the host directory. So the directory
// may be mounted anywhere, a host directory appears and goes with one rename, and a file under one name never changes.
//
// The package writes nothing, so a crash leaves nothing.
package hostconfig
