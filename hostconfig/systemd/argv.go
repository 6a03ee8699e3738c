package systemd

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxArgs    = 64
	maxArgSize = 4096 // bytes; the longest path of Linux
)

// checkArgv refuses commands that systemd would not run as they are.
//
// A $ in the command of a transient unit is right at first, and after any daemon-reload it is not: systemd 252 writes
// the unit to /run/systemd/transient as \$ and reads that back as it stands, so a shell that had expanded $X prints $X.
// A ; becomes \; the same way. Quotes, backslashes and % have a meaning in that file too. None of them is needed for the
// paths that hotplate names, so none is accepted, in unit files neither.
func checkArgv(argv []string) error {
	if len(argv) == 0 || len(argv) > maxArgs {
		return fmt.Errorf("a command has 1 to %d words, not %d", maxArgs, len(argv))
	}
	if err := checkPath(argv[0]); err != nil {
		return err
	}
	for _, arg := range argv {
		if err := checkText(arg); err != nil {
			return fmt.Errorf("the command %q has a word that systemd does not pass on as it is: %w", argv, err)
		}
	}
	return nil
}

// checkPath refuses paths that are not absolute, and those that systemd would take for something else.
func checkPath(file string) error {
	if !path.IsAbs(file) || path.Clean(file) != file {
		return fmt.Errorf("%q is not the absolute path of a file", file)
	}
	if strings.Contains(file, ":") {
		return fmt.Errorf("the path %q holds a colon, which separates two paths in a unit file", file)
	}
	if err := checkText(file); err != nil {
		return fmt.Errorf("systemd does not take the path %q as it is: %w", file, err)
	}
	return nil
}

// checkText refuses words and paths that do not survive being written to a unit file and read again.
func checkText(s string) error { return checkRunes(s, `$%;"'\`) }

// checkDescription is the same for a description, which systemd takes as it is up to the end of the line.
func checkDescription(s string) error {
	if err := checkRunes(s, `%\`); err != nil {
		return fmt.Errorf("the description %q does not stay as it is: %w", s, err)
	}
	return nil
}

func checkRunes(s, forbidden string) error {
	if s == "" || len(s) > maxArgSize {
		return fmt.Errorf("it has %d bytes, not 1 to %d", len(s), maxArgSize)
	}
	if !utf8.ValidString(s) {
		return errors.New("it is not UTF-8")
	}
	if i := strings.IndexFunc(s, func(r rune) bool {
		return strings.ContainsRune(forbidden, r) || r != ' ' && !unicode.IsGraphic(r)
	}); i >= 0 {
		r, _ := utf8.DecodeRuneInString(s[i:])
		return fmt.Errorf("it holds %q", r)
	}
	return nil
}

// ownPrefix begins the names of all units that hotplate makes.
const ownPrefix = "hotplate-"

// checkOwnName refuses names, without the type, of units that are not hotplate's.
func checkOwnName(name string) error {
	rest, ok := strings.CutPrefix(name, ownPrefix)
	if !ok || rest == "" || len(name) > 100 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%q is no name for a unit of hotplate: it takes %s and then a-z, 0-9 and -", name, ownPrefix)
	}
	return nil
}
