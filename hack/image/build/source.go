package build

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Source says what an image is built from. Beside the files themselves, all that an image depends on is here.
type Source struct {
	// Version is what the programs say of themselves.
	Version string
	// Revision is the commit.
	Revision string
	// Time is that of all files in the image, and of the image. Whole seconds count.
	Time time.Time
	// Modified is whether the files are not those of the commit, so that nobody else can build the image.
	Modified bool
}

// FromGit asks git about the working tree in dir.
func FromGit(ctx context.Context, dir string) (Source, error) {
	git := func(args ...string) (string, error) {
		// Without a lock on the index we are in nobody's way.
		out, err := output(exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks"}, args...)...), dir)
		return strings.TrimSpace(string(out)), err
	}
	// The length of an abbreviated commit must not depend on how much of the history this clone has.
	version, err := git("describe", "--tags", "--always", "--abbrev=12")
	if err != nil {
		return Source{}, err
	}
	commit, err := git("log", "-1", "--format=%H %ct")
	if err != nil {
		return Source{}, err
	}
	changes, err := git("status", "--porcelain")
	if err != nil {
		return Source{}, err
	}
	revision, seconds, _ := strings.Cut(commit, " ")
	t, err := ParseEpoch(seconds)
	if err != nil {
		return Source{}, fmt.Errorf("read the time of %s: %w", revision, err)
	}
	s := Source{Version: version, Revision: revision, Time: t, Modified: changes != ""}
	if s.Modified {
		s.Version += "-dirty"
	}
	return s, nil
}

// ParseEpoch reads a time as in SOURCE_DATE_EPOCH: seconds since 1970.
func ParseEpoch(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("%q is no number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

var (
	// A version becomes a part of the linker's flags.
	goodVersion  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,127}$`)
	goodRevision = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

func (s Source) validate() error {
	var errs []error
	if !goodVersion.MatchString(s.Version) {
		errs = append(errs, fmt.Errorf("the version %q has other characters than letters, digits and ._+-, or is longer than 128", s.Version))
	}
	if !goodRevision.MatchString(s.Revision) {
		errs = append(errs, fmt.Errorf("the revision %q is no commit", s.Revision))
	}
	if s.Time.IsZero() {
		errs = append(errs, errors.New("there is no time for the files in the image"))
	}
	return errors.Join(errs...)
}
