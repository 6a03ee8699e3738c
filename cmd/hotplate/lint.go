package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// maxLint bounds a file to lint, in bytes.
const maxLint = 1 << 20

func newLint() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "lint FILE",
		Short: "Check a config, a hosts.toml or a containerd config.toml, offline",
		Long: "lint finds everything that is wrong with hotplate's config, and warns of what containerd would silently do\n" +
			"otherwise than one expects. A FILE called hosts.toml is read as containerd's host configuration, any other *.toml as\n" +
			"containerd's config.toml. Certificates and credentials that the config names are checked where they exist on\n" +
			"this machine. The exit code is 1 if there is an error; warnings alone give 0.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return lint(cmd.OutOrStdout(), args[0], version)
		},
	}
	cmd.Flags().StringVar(&version, "containerd-version", "", "containerd whose rules apply (default: any)")
	return cmd
}

func lint(out io.Writer, path, version string) error {
	v, err := parseVersion(version)
	if err != nil {
		return err
	}
	data, err := readBounded(path)
	if err != nil {
		return err
	}
	var warnings []hostconfig.Warning
	switch {
	case filepath.Base(path) == hostconfig.HostsTOML:
		warnings = append(hostconfig.LintHostsTOML(data, v), lintFilesOf(path, v)...)
	case filepath.Ext(path) == ".toml":
		warnings = hostconfig.LintContainerdConfig(data, v)
	default:
		if warnings, err = lintConfig(path, data, v); err != nil {
			return err
		}
	}
	count := make(map[hostconfig.Severity]int)
	for _, w := range warnings {
		fmt.Fprintln(out, w)
		count[w.Severity]++
	}
	summary := fmt.Sprintf("errors: %d, warnings: %d, notes: %d", count[hostconfig.Severe], count[hostconfig.Warn],
		count[hostconfig.Info])
	if count[hostconfig.Severe] > 0 {
		return fmt.Errorf("%s: %s", path, summary)
	}
	fmt.Fprintf(out, "%s: ok (%s)\n", path, summary)
	return nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLint+1))
	if err == nil && len(data) > maxLint {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxLint)
	}
	return data, err
}

// lintFilesOf checks the certificates that a hosts.toml names beside it: with one missing, every pull fails. It says
// nothing where the directory is not the one that containerd would read for its host.
func lintFilesOf(path string, v hostconfig.Version) []hostconfig.Warning {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	dir := filepath.Dir(path)
	root, name := filepath.Split(dir)
	root = filepath.Clean(root)
	res, err := hostconfig.ExplainAt(os.DirFS(root), root, hostconfig.HostOfDir(name), v)
	if err != nil || res.Dir != name || res.Failure == "" {
		return nil
	}
	return []hostconfig.Warning{{Severity: hostconfig.Severe, Code: "every-pull-fails", Message: res.Failure}}
}

// lintConfig checks hotplate's own config. Files that it names and that are not on this machine are a warning: a config
// is often written elsewhere than where it is used.
func lintConfig(path string, data []byte, v hostconfig.Version) ([]hostconfig.Warning, error) {
	s := config.Read(path, data, nil)
	if s.Config == nil {
		return nil, s.Err
	}
	var warnings []hostconfig.Warning
	if s.Err != nil {
		if !onlyMissing(s.Err) {
			return nil, s.Err
		}
		warnings = append(warnings, hostconfig.Warning{Severity: hostconfig.Info, Code: "not-here",
			Message: "some files cannot be checked on this machine: " + strings.ReplaceAll(s.Err.Error(), "\n", "; ")})
		s.Err = nil
	}
	regs, err := agent.Registries(s)
	switch {
	case err != nil && len(warnings) == 0:
		return nil, err
	case err != nil: // a login of a file that is not here, for example
		warnings = append(warnings, hostconfig.Warning{Severity: hostconfig.Info, Code: "not-here",
			Message: "registries are not checked further: " + err.Error()})
	}
	for _, w := range s.Warnings {
		warnings = append(warnings, hostconfig.Warning{Severity: hostconfig.Warn, Code: "credentials", Message: w})
	}
	warnings = append(warnings, lintCertificates(s)...)
	return append(warnings, hostconfig.LintRegistries(regs, v)...), nil
}

// onlyMissing reports whether every cause of err is a file that does not exist.
func onlyMissing(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !onlyMissing(e) {
				return false
			}
		}
		return true
	}
	if inner := errors.Unwrap(err); inner != nil {
		return onlyMissing(inner)
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, config.ErrOnlyInCluster)
}

func lintCertificates(s config.Snapshot) []hostconfig.Warning {
	var out []hostconfig.Warning
	add := func(kind, name string, findings []certs.Finding) {
		for _, f := range findings {
			w := hostconfig.Warning{Where: kind + " " + name, Code: "certificate",
				Message: fmt.Sprintf("%s: %s, valid until %s", f.Subject, f.State, f.NotAfter.Format(time.DateOnly))}
			switch f.State {
			case certs.Valid:
				continue
			case certs.Expiring:
				w.Severity = hostconfig.Warn
			case certs.Expired, certs.NotYetValid:
				w.Severity = hostconfig.Severe
			}
			out = append(out, w)
		}
	}
	for _, b := range s.Config.Certs.Bundles {
		add("ca", b.Name, s.Bundles[b.Name].Findings(time.Now()))
	}
	for _, k := range s.Config.Certs.KeyPairs {
		add("key pair", k.Name, s.KeyPairs[k.Name].Findings(time.Now()))
	}
	return out
}
