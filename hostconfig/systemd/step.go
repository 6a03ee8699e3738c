package systemd

import (
	"path"
	"slices"
)

// Step is one command that systemd runs, without a shell.
type Step struct {
	// Argv is the program by its absolute path on the node, and its arguments. None of them may hold $, %, ;, a quote,
	// a backslash or a control character.
	Argv []string
	// IgnoreFailure lets the next step run even if this one failed.
	IgnoreFailure bool
}

// Programs are named in /bin, which has them on every usual distribution: where it is not a directory of its own, it is
// a link to /usr/bin.
const (
	cp        = "/bin/cp"
	ln        = "/bin/ln"
	mv        = "/bin/mv"
	rm        = "/bin/rm"
	syncFile  = "/bin/sync"
	systemctl = "/bin/systemctl"

	sha256sum = "/usr/bin/sha256sum" // it is not one of those that were ever in /bin
)

// RestoreTemp is the path of what RestoreFile renames to file.
func RestoreTemp(file string) string { return file + ".hotplate-restore" }

// RestoreFile makes the content, mode, owner and times of file those of backup, with one rename. Both are paths on the
// node. A crash leaves file as it was or as it should be, and perhaps the copy beside it, which the next run replaces.
func RestoreFile(backup, file string) []Step {
	temp := RestoreTemp(file)
	return append([]Step{{Argv: []string{cp, "-p", backup, temp}}, synced(temp)}, rename(temp, file)...)
}

// synced makes a file or directory durable. An old or small sync may not take a path.
func synced(path string) Step { return Step{Argv: []string{syncFile, path}, IgnoreFailure: true} }

// rename puts temp in the place of file, durably.
func rename(temp, file string) []Step {
	return []Step{{Argv: []string{mv, "-f", temp, file}}, synced(path.Dir(file))}
}

// PutReady puts what stands at RestoreTemp(file) in the place of file, with one rename, which needs no room on a full disk.
// backup is copied there before if nothing stands there. Nothing is done where it is not what the list sums says of it. The
// steps between come right before the rename.
func PutReady(backup, sums, file string, between ...Step) []Step {
	temp := RestoreTemp(file)
	steps := []Step{
		{Argv: []string{cp, "-n", "-p", backup, temp}, IgnoreFailure: true}, // some fail where they find something
		synced(temp),
		CheckSums(sums),
	}
	return slices.Concat(steps, between, rename(temp, file))
}

// Kept is the path at which KeepFile keeps file.
func Kept(file string) string { return file + ".hotplate-replaced" }

// KeepFile keeps what is at file, if anything is, when something else is renamed there: by a second name, which needs no
// room on a full disk.
func KeepFile(file string) []Step {
	return []Step{{Argv: []string{ln, "-f", file, Kept(file)}, IgnoreFailure: true}}
}

// CheckSums fails, and so keeps the steps after it from being taken, when a file that list names is not what list says of it:
// lines as sha256sum writes them.
func CheckSums(list string) Step { return Step{Argv: []string{sha256sum, "--check", "--status", list}} }

// Sum is a step that fails where there is no file at path.
func Sum(path string) Step { return Step{Argv: []string{sha256sum, path}} }

// RemoveFile removes a file that was not there before.
func RemoveFile(file string) []Step {
	return []Step{
		{Argv: []string{rm, "-f", file}},
		synced(path.Dir(file)),
	}
}

// RestartUnit restarts a unit whatever state it is in, and then starts those that went down with it. The restart does
// not wait: a start that hangs must not keep the other steps from being taken.
func RestartUnit(unit string, dependants ...string) []Step {
	steps := []Step{
		// Without this a unit that reached its start limit stays down, and the restart fails in milliseconds.
		{Argv: []string{systemctl, "reset-failed", unit}, IgnoreFailure: true},
		{Argv: []string{systemctl, "--no-block", "restart", unit}},
	}
	for _, d := range dependants {
		steps = append(steps,
			Step{Argv: []string{systemctl, "reset-failed", d}, IgnoreFailure: true},
			Step{Argv: []string{systemctl, "--no-block", "start", d}, IgnoreFailure: true})
	}
	return steps
}
