package configtoml

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

const (
	// maxFiles is how many files a configuration may have, maxDepth how often one may import the next.
	maxFiles = 64
	maxDepth = 8
	// maxImports is how many entries `imports` of one file may have.
	maxImports = 256
)

// Config is a root file and what it imports, at one moment. It does not change; its methods may be called concurrently.
type Config struct {
	// Path is the root file's path on the node.
	Path string
	// Version is the containerd version whose rules hold.
	Version hostconfig.Version
	// Files are the root file, if it exists, and its imports, in the order in which containerd merges them.
	Files []File

	node   *node
	rules  hostconfig.ConfigRules
	faults []fault // found while reading
	takes  []importEntry
	result outcome
}

// importEntry is a path or pattern in the imports of a file.
type importEntry struct{ pattern, file string }

// String names the root file and how many files there are. Nothing prints their bytes by accident: they may hold
// passwords.
func (c *Config) String() string { return fmt.Sprintf("%s (%d files)", c.Path, len(c.Files)) }

// GoString is String.
func (c *Config) GoString() string { return c.String() }

// File is one file of a configuration.
type File struct {
	// Path is as containerd names the file, on the node.
	Path string
	// Real is where the file is when all symlinks have been followed: the path to write.
	Real string
	// ImportedBy is the Path of the file that imports this one; empty for the root file.
	ImportedBy string
	// Version is its `version`; 0 if it has none.
	Version int64
	Data    []byte
	Mode    fs.FileMode
	ModTime time.Time

	doc        map[string]any
	statements []statement
	patterns   []string // `imports` as they stand there
}

// String is the path.
func (f File) String() string { return f.Path }

// GoString is String.
func (f File) GoString() string { return f.Path }

// fault is something for which containerd does not start, or does what nobody can foretell.
type fault struct {
	code, file string
	line       int
	message    string
	// todo says what to change by hand.
	todo string
}

func (f fault) warning() hostconfig.Warning {
	return hostconfig.Warning{Code: f.code, Severity: hostconfig.Severe, Where: f.where(), Message: f.message}
}

func (f fault) where() string {
	if f.line == 0 {
		return f.file
	}
	return fmt.Sprintf("%s:%d", f.file, f.line)
}

// Read reads the configuration file at an absolute path of the node, and what it imports, as containerd v does. root is
// the node's root directory, or the part of it that is mounted; symlinks are followed within it, for which it must be an
// fs.ReadLinkFS. A root file that does not exist is no error: Files is empty then. What keeps containerd from starting
// is no error either, but told by Warnings, and Plan refuses it. Errors are: a version whose rules are not known
// (*RefusedError), more than hotplate reads (ErrTooLarge), and what cannot be read.
func Read(root fs.FS, file string, v hostconfig.Version) (*Config, error) {
	if !path.IsAbs(file) {
		return nil, fmt.Errorf("read containerd's configuration: %q is not an absolute path", file)
	}
	rules, ok := v.ConfigRules()
	if !ok {
		return nil, &RefusedError{
			Code:   "unknown-version",
			Reason: fmt.Sprintf("how containerd %s reads %s is not known", v, file),
			Manual: []Step{{File: file, Note: "set config_path of the CRI plugin's registry as that version's manual says"}},
		}
	}
	c := &Config{Path: path.Clean(file), Version: v, node: &node{root: root}, rules: rules}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("read containerd's configuration: %w", err)
	}
	c.result = evaluate(c.Files, rules)
	return c, nil
}

// pending is a file that is still to be read.
type pending struct {
	path, importedBy string
	line, depth      int
}

// load follows LoadConfig of services/server/config/config.go, 1.7.35, and of cmd/containerd/server/config/config.go,
// 2.0.14, and LoadConfigWithPlugins of 2.4.2: breadth first, and a path that was read is not read again.
func (c *Config) load() error {
	loaded := map[string]bool{}
	queue := []pending{{path: c.Path}}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		if loaded[next.path] {
			continue
		}
		if len(loaded) == maxFiles || next.depth > maxDepth {
			return fmt.Errorf("%s imports more than %d files, or deeper than %d: %w", c.Path, maxFiles, maxDepth,
				ErrTooLarge)
		}
		loaded[next.path] = true
		raw, err := c.node.read(next.path)
		switch {
		case next.importedBy == "" && errors.Is(err, fs.ErrNotExist):
			return nil
		case next.importedBy != "" && missing(err):
			c.faults = append(c.faults, fault{
				code: "missing-import", file: next.importedBy, line: next.line,
				message: fmt.Sprintf("it imports %s, which is not there or no file; containerd does not start", next.path),
				todo:    fmt.Sprintf("take %s out of `imports`, or create it", next.path),
			})
			continue
		case err != nil:
			return err
		}
		f := File{
			Path: next.path, ImportedBy: next.importedBy, Real: raw.real, Data: raw.data, Mode: raw.info.Mode().Perm(),
			ModTime: raw.info.ModTime(),
		}
		if fault, ok := f.parse(c.Version); !ok {
			c.faults = append(c.faults, fault)
		}
		c.Files = append(c.Files, f)
		imports, err := c.importsOf(f, next.depth)
		if err != nil {
			return err
		}
		queue = append(queue, imports...)
	}
	return nil
}

// missing reports whether containerd, too, cannot read what err is about. Where hotplate may not read, it may.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) || errors.Is(err, fs.ErrInvalid) ||
		errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENAMETOOLONG)
}

// parse fills in what the bytes say.
func (f *File) parse(v hostconfig.Version) (fault, bool) {
	doc := map[string]any{}
	statements, scanErr := scan(f.Data)
	if err := toml.Unmarshal(f.Data, &doc); err != nil || scanErr != nil {
		return fault{
			code: "bad-toml", file: f.Path, message: badTOML(f.Data, v), todo: "repair the file",
		}, false
	}
	f.doc, f.statements = doc, statements
	if bad := f.version(); bad != "" {
		return fault{
			code: "bad-version", file: f.Path, line: f.lineOf("version"), message: bad + "; containerd does not start",
			todo: "write version = 2",
		}, false
	}
	if !f.imports() {
		return fault{
			code: "bad-imports", file: f.Path, line: f.lineOf("imports"), todo: "make it a list of strings",
			message: fmt.Sprintf("imports must be a list of at most %d strings; containerd does not start", maxImports),
		}, false
	}
	return fault{}, true
}

// badTOML says where the fault is, without quoting the text around it, which may be a password.
func badTOML(data []byte, v hostconfig.Version) string {
	for _, w := range hostconfig.LintContainerdConfig(data, v) {
		if w.Code == "bad-toml" {
			return w.Message
		}
	}
	return "it is not TOML"
}

func (f *File) version() (bad string) {
	switch n := f.doc["version"].(type) {
	case nil:
	case int64:
		if n < 0 {
			return "version is negative"
		}
		f.Version = n
	default:
		return "version must be a number"
	}
	return ""
}

func (f *File) imports() bool {
	switch list := f.doc["imports"].(type) {
	case nil:
		return true
	case []any:
		for _, item := range list {
			s, ok := item.(string)
			if !ok {
				return false
			}
			f.patterns = append(f.patterns, s)
		}
		return len(list) <= maxImports
	default:
		return false
	}
}

// importsOf follows resolveImports of services/server/config/config.go, 1.7.35, which is the same in 2.4.2; before
// 1.6.30 and 1.7.16 it does not join a relative pattern with the directory of the importing file.
func (c *Config) importsOf(f File, depth int) ([]pending, error) {
	if len(f.patterns) > maxImports {
		return nil, nil
	}
	line := f.lineOf("imports")
	var out []pending
	for _, pattern := range f.patterns {
		p := path.Clean(pattern)
		isGlob := strings.Contains(p, "*")
		switch {
		case path.IsAbs(p):
		case isGlob && c.rules.GlobsFromWorkDir:
			p = "/" + p // where systemd starts it
			c.faults = append(c.faults, fault{
				code: "relative-pattern", file: f.Path, line: line,
				message: fmt.Sprintf("containerd %s looks up the pattern %q from the directory that it was started in, "+
					"which hotplate does not know", c.Version, pattern),
				todo: "write the pattern with an absolute path",
			})
		default:
			p = path.Join(path.Dir(f.Path), p)
		}
		c.takes = append(c.takes, importEntry{p, f.Path})
		names := []string{p}
		if isGlob {
			var err error
			names, err = c.node.glob(p)
			switch {
			case errors.Is(err, path.ErrBadPattern):
				c.faults = append(c.faults, fault{
					code: "bad-pattern", file: f.Path, line: line, todo: "repair the pattern",
					message: fmt.Sprintf("the pattern %q is malformed; containerd does not start", pattern),
				})
			case err != nil:
				return nil, err
			}
		}
		for _, name := range names {
			out = append(out, pending{path: name, importedBy: f.Path, line: line, depth: depth + 1})
		}
	}
	return out, nil
}

// Takes tells which file would import a file with this path, if it were there, and by which path or pattern; both are empty
// if none would. The path is free of symlinks, or of those that lead to no file of the configuration.
func (c *Config) Takes(file string) (importer, pattern string) {
	names := []string{file}
	for _, f := range c.Files { // as the importer calls the directory
		if path.Dir(f.Real) == path.Dir(file) {
			names = append(names, path.Join(path.Dir(f.Path), path.Base(file)))
		}
	}
	for _, e := range c.takes {
		if slices.ContainsFunc(names, e.takes) {
			return e.file, e.pattern
		}
	}
	return "", ""
}

func (e importEntry) takes(name string) bool {
	if !strings.Contains(e.pattern, "*") {
		return e.pattern == name
	}
	ok, err := path.Match(e.pattern, name)
	return ok && err == nil // a malformed one is among the faults
}

// lineOf returns the line of a key in the file, from 1; 0 if it is not there.
func (f *File) lineOf(key ...string) int {
	for _, s := range f.statements {
		if s.at(key) != nil {
			return s.line
		}
	}
	return 0
}

// Exists reports whether the root file exists.
func (c *Config) Exists() bool { return len(c.Files) > 0 }

// Hash changes whenever the path or the bytes of a file do, or which files there are and in which order.
func (c *Config) Hash() string {
	h := sha256.New()
	for _, f := range c.Files {
		_, _ = fmt.Fprintf(h, "%d:%s%d:%s%d:", len(f.Path), f.Path, len(f.Real), f.Real, len(f.Data))
		_, _ = h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}
