// Package configtoml knows what containerd's config.toml and the files that it imports say about the registry's
// config_path, and the smallest edit that makes it one given directory. It reads through an fs.FS, writes nothing, and so
// leaves nothing behind.
//
// Its steps:
//
//  1. Read reads the root file and what it imports, in the order in which one containerd version merges them.
//  2. ConfigPath says which value is in effect and which line sets it, by that version's rules of merging and migrating
//     (hostconfig.ConfigRules). Warnings says what keeps containerd from starting, what makes the setting ineffective,
//     and what is dangerous.
//  3. Plan says what to change. It edits by line, in the style of the file, proves by parsing and evaluating that nothing
//     but config_path differs, and refuses what it cannot do safely with the lines to change by hand (RefusedError).
//  4. OnlyRegistryDiffers compares what the node's own containerd makes of the configuration before and after
//     (`containerd config dump`).
//
// Config.Hash tells whether anything changed in between, File.ModTime whether the running daemon has seen what is there.
//
// # Which file is edited
//
// The one that wins, so that a look at the configuration finds one answer. If a file sets config_path in effect, that
// line is edited, in the root file or in a drop-in, on every version. If none does, the key goes
//
//   - on 1.x to the file whose section of the CRI plugin is in effect, because a drop-in replaces the whole section
//     there, and to the root file if there is none;
//   - on 2.x to the root file, under the name that belongs to its own version.
//
// A drop-in is never created. On 1.x it would erase the plugin's other settings. On 2.x a drop-in of version 2 would be
// safe, but only where the root file imports its directory, and only while no later drop-in overrides it; where it is
// not imported the root file must be edited anyway, where it is overridden the later drop-in must, and everywhere else
// one line in the root file does the same with one file less to find, to back up and to put back.
//
// A file that another program writes is edited too if it wins, with a warning in Edit.Warnings. If there is no
// configuration at all, a root file of version 2 is created: all versions from 1.6 to 2.4 read it, so that it survives an
// upgrade and a downgrade. It imports nothing, as containerd does without a file.
//
// # What is refused
//
// A configuration with which containerd does not start, or of which nobody can foretell what it does; one in which
// a file makes containerd ignore what another says of the CRI plugin (see Options.AcceptLost), because a restart may
// lose settings that the running daemon still has; `mirrors`, and on 1.x configs.*.tls, with which config_path takes CRI
// down (see Options.Convert); and every edit whose result is not proved.
//
// # What it does not see
//
// The rules are those of containerd's own code, and TOML is read with the library of 2.x; 1.x has an older one, which
// takes some documents for bad that this one does not, and the other way round. Keys that have nothing to do with the
// registry are not checked. So the plan is no proof that containerd starts: let its own `config dump` read the result
// first. An import that is not in the mounted part of the node looks as if it were not there. That the running daemon
// obeys the directory is for package probe to show.
package configtoml
