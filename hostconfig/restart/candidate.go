package restart

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// dumpTimeout bounds one `containerd config dump`, which takes 13 to 80 ms.
const dumpTimeout = 10 * time.Second

// maxWord bounds what is repeated of containerd's words, in bytes.
const maxWord = 1000

// checkCandidate lets the unit's own binary read the configuration as it is and as it would be. Only the registry's keys
// may differ. Programs run on the node, where the binary and its libraries are.
func (r *Restarter) checkCandidate(ctx context.Context, t target, s *survey) error {
	if t.edit.Old == nil {
		return r.checkNew(ctx, t, s)
	}
	before, err := r.dump(ctx, t, false)
	if err != nil {
		return r.badDump(s, "the configuration that is there would not load again, so that a restart cannot go well: "+
			"mend it first", err)
	}
	after, err := r.dump(ctx, t, true)
	if err != nil {
		return r.badDump(s, "containerd does not load the new configuration", err)
	}
	if err := configtoml.OnlyRegistryDiffers(before, after); err != nil {
		s.add("candidate", Refuse, "the new configuration would change more than the registry's: "+err.Error())
		return nil //nolint:nilerr // it is a verdict
	}
	s.add("candidate", Pass, fmt.Sprintf("%s loads it, and nothing but the registry's keys differs", t.binary))
	return nil
}

// checkNew is checkCandidate where there is no file to compare with. That there is none is the node's to say: a pod sees only what
// is mounted into it, and a link that leads elsewhere leads to nothing there.
func (r *Restarter) checkNew(ctx context.Context, t target, s *survey) error {
	is, err := r.cfg.Systemd.RunOnHost(ctx, systemd.Command{Name: "config-exists", Argv: systemd.Sum(t.edit.Path).Argv, Timeout: dumpTimeout})
	switch {
	case err != nil:
		return err
	case is.ExitCode == 0:
		s.add("candidate", Refuse, t.edit.Path+" is there, but not for hotplate: mount its directory, and, if it is a link, what it leads to")
		return nil
	}
	s.add("candidate", Pass, t.edit.Path+" does not exist yet")
	if _, err := r.dump(ctx, t, true); err != nil {
		return r.badDump(s, "containerd does not load the new configuration", err)
	}
	return nil
}

// dumpError is what containerd said of a configuration that it does not load.
type dumpError struct{ text string }

func (e *dumpError) Error() string { return e.text }

func (r *Restarter) badDump(s *survey, what string, err error) error {
	if bad := (*dumpError)(nil); errors.As(err, &bad) {
		s.add("candidate", Refuse, what+": "+bad.text)
		return nil
	}
	return err
}

// dump lets containerd print what it makes of its configuration, with the edit or without. With it, the new file stands in
// the place of the old one for that process alone, so that relative imports and globs mean what they will mean.
func (r *Restarter) dump(ctx context.Context, t target, edited bool) ([]byte, error) {
	c := systemd.Command{
		Name: "config-dump", Argv: []string{t.binary, "--config", t.config.Path, "config", "dump"}, Timeout: dumpTimeout,
	}
	if edited {
		file := r.state(candidate)
		if err := r.write(file, t.edit.New, t.edit.Mode); err != nil {
			return nil, err
		}
		defer r.remove(file) //nolint:errcheck // the next one replaces it
		if t.edit.Old == nil {
			c.Argv[2] = file
		} else {
			c.Binds = []systemd.Bind{{Source: file, Target: t.edit.Path}}
		}
	}
	result, err := r.cfg.Systemd.RunOnHost(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case result.ExitCode != 0:
		return nil, &dumpError{lastWord(result.Stderr)}
	case result.Truncated:
		return nil, &dumpError{fmt.Sprintf("it prints more than %d bytes", systemd.MaxOutput)}
	}
	return result.Stdout, nil
}

// lastWord is containerd's own error, which is the last that it prints; before it come warnings. What it repeats of the
// configuration is left out, for that may be a password.
func lastWord(text []byte) string {
	word := "it said nothing"
	for line := range strings.Lines(withoutValues(string(text))) {
		if line = strings.TrimSpace(line); line != "" {
			word = line
		}
		if strings.HasPrefix(line, "containerd: ") {
			break // there may be lines of the file behind it
		}
	}
	if len(word) > maxWord {
		word = strings.ToValidUTF8(word[:maxWord], "") + " …"
	}
	return word
}

// withoutValues takes the values out of what containerd says of a configuration. 1.x prints one that has the wrong type
// (github.com/pelletier/go-toml 1.9.5, marshal.go, valueFromToml); 2.x prints none.
func withoutValues(text string) string {
	const before = "Can't convert "
	from := strings.Index(text, before)
	if from < 0 {
		return text
	}
	from += len(before)
	// The value may have several lines, and say anything; so everything goes up to the last type that is named.
	to := strings.LastIndex(text, ") to ")
	if to < from {
		return text[:from] + "…"
	}
	if open := strings.LastIndex(text[:to], "("); open > from {
		to = open
	}
	return text[:from] + "…" + text[to:]
}
