package systemd

import (
	"fmt"
	"path"
	"strings"
)

// BootUnit describes a persistent unit for the case that the node goes down in the middle of a transaction, when a
// Rescue is lost with /run: at the next boot it takes Steps before the named unit starts.
//
// It has to tell a boot from an ordinary restart of Before, which pulls it in just the same. It does so by two
// conditions of systemd's own, and needs neither a shell nor a comparison of boot ids:
//
//   - Marker exists: a transaction was begun and has not ended.
//   - No timer of Rescues matches in /run/systemd/transient, where systemd keeps transient units for as long as they are
//     loaded (systemd.unit(5), "Unit File Load Path"): nobody else is there to restore. As long as a Rescue is armed,
//     runs, or has run, its timer is there; a reboot, soft or not, takes it away.
//
// So whoever uses it writes Marker before Arm, looks whether Marker is still there between Arm and the first change, and
// removes Marker before Disarm. A restart of Before by someone else between Marker and Arm takes the steps too early, when
// there is nothing to restore yet, and moves Marker away.
type BootUnit struct {
	// Name of the unit, without .service. It begins with hotplate-, then come a-z, 0-9 and -.
	Name        string
	Description string
	// Marker is a file on the node that survives a reboot.
	Marker string
	// Rescues is the beginning of the names of all Rescues that belong to it, such as hotplate-rescue-.
	Rescues string
	// Before is the unit that must not start before the steps were taken, such as containerd.service.
	Before string
	// Unchanged, if set, is a file with lines as sha256sum writes them. If one of the files named there has another
	// content at boot, no step is taken: somebody has written it since, and knows better.
	Unchanged string
	// Steps are taken in order, up to the first that fails and may not. After the last, Marker is moved to
	// Restored(Marker).
	Steps []Step
}

// Restored is what a BootUnit renames its marker to when all steps were taken.
func Restored(marker string) string { return marker + ".restored" }

// Render returns the text of the unit's file. It belongs into /etc/systemd/system, which systemd can read before any
// other file system is mounted; then it needs Enable.
func (b BootUnit) Render() (string, error) {
	if err := b.validate(); err != nil {
		return "", fmt.Errorf("boot unit %s: %w", b.Name, err)
	}
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# Written by hotplate. It does something only at a boot after the node went down while hotplate was changing the")
	line("# configuration of %s, and then puts back what was there before.", b.Before)
	line("[Unit]")
	line("Description=%s", b.Description)
	line("DefaultDependencies=no")
	line("After=local-fs.target")
	line("Before=%s", b.Before)
	line("RequiresMountsFor=%s", quote(path.Dir(b.Marker)))
	line("# A change was begun and has not ended, …")
	line("ConditionPathExists=%s", b.Marker)
	line("# … and the timer that would undo it is gone: the node was rebooted.")
	line("ConditionPathExistsGlob=!/run/systemd/transient/%s*.timer", b.Rescues)
	line("")
	line("[Service]")
	line("Type=oneshot")
	if b.Unchanged != "" {
		line("# Nobody has written these files since. systemd before 243 does not know this, and the first command fails.")
		line("ExecCondition=%s", execLine(CheckSums(b.Unchanged)))
	}
	for _, step := range b.ExecStart() {
		line("ExecStart=%s", execLine(step))
	}
	line("")
	line("[Install]")
	line("WantedBy=%s multi-user.target", b.Before)
	return s.String(), nil
}

// ExecStart are all commands that the unit has, by which Unit.ExecStart can be compared with it.
func (b BootUnit) ExecStart() (steps []Step) {
	if b.Unchanged != "" {
		steps = append(steps, CheckSums(b.Unchanged))
	}
	steps = append(steps, b.Steps...)
	return append(steps, Step{Argv: []string{mv, "-f", b.Marker, Restored(b.Marker)}})
}

func (b BootUnit) validate() error {
	if err := checkOwnName(b.Name); err != nil {
		return err
	}
	if err := checkOwnName(strings.TrimSuffix(b.Rescues, "-")); err != nil {
		return err
	}
	if err := checkName(b.Before); err != nil {
		return err
	}
	if err := checkPath(b.Marker); err != nil {
		return err
	}
	if b.Unchanged != "" {
		if err := checkPath(b.Unchanged); err != nil {
			return err
		}
	}
	for _, step := range b.Steps {
		if err := checkArgv(step.Argv); err != nil {
			return err
		}
	}
	return checkDescription(b.Description)
}

// execLine writes a step as ExecStart= takes it. checkArgv has seen to it that quotes are all it needs.
func execLine(s Step) string {
	words := make([]string, len(s.Argv))
	for i, arg := range s.Argv {
		words[i] = quote(arg)
	}
	prefix := ""
	if s.IgnoreFailure {
		prefix = "-"
	}
	return prefix + strings.Join(words, " ")
}

// quote puts quotes around what systemd would take apart or take for something else. It is for text that passed
// checkText.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:=,@") == "" {
		return s
	}
	return `"` + s + `"`
}
