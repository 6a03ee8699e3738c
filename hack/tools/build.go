package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Config says where a Builder finds its modules and keeps what it built.
type Config struct {
	// Root is the top directory of the repository. Empty: found upwards from the working directory.
	Root string
	// CacheDir keeps the programs. Empty: hotplate/tools below the user's cache directory.
	CacheDir string
	// Progress gets a line when something that takes long starts and ends, and none for what is in the cache. Nil: nobody
	// is told.
	Progress func(line string)
}

// Builder builds parts. Its methods may be called concurrently, and by several processes.
type Builder struct {
	root, cache string
	progress    func(string)
}

// NewBuilder finds the directories and creates the cache.
func NewBuilder(cfg Config) (*Builder, error) {
	b := &Builder{root: cfg.Root, cache: cfg.CacheDir, progress: cfg.Progress}
	if b.root == "" {
		root, err := findRoot()
		if err != nil {
			return nil, err
		}
		b.root = root
	}
	if b.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the cache directory for built parts: %w", err)
		}
		b.cache = filepath.Join(dir, "hotplate", "tools")
	}
	if b.progress == nil {
		b.progress = func(string) {}
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, fmt.Errorf("create the cache directory for built parts: %w", err)
	}
	return b, nil
}

// mainModule is the first line of the go.mod in the top directory of the repository.
const mainModule = "module github.com/hotplate-dev/hotplate\n"

func findRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte(mainModule)) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no hotplate repository at or above %s; run this inside a clone", start)
		}
	}
}

// Ensure returns the directory that holds the part's programs. It builds them when they are not in the cache, which
// takes minutes.
func (b *Builder) Ensure(ctx context.Context, name string) (string, error) {
	part, err := Lookup(name)
	if err != nil {
		return "", err
	}
	r, err := b.recipe(ctx, part)
	if err != nil {
		return "", fmt.Errorf("prepare the build of %s: %w", name, err)
	}
	dir := filepath.Join(b.cache, name+"-"+r.key)
	if err := b.ensure(ctx, r, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// ensure makes dir unless it is there.
func (b *Builder) ensure(ctx context.Context, r recipe, dir string) error {
	name := r.part.Name
	if isDir(dir) {
		return nil
	}
	unlock, err := lock(ctx, filepath.Join(b.cache, name+".lock"), func() {
		b.progress(name + ": waiting for another process that builds it")
	})
	if err != nil {
		return err
	}
	defer unlock()
	if isDir(dir) {
		return nil
	}
	b.progress(fmt.Sprintf("%s: %s", name, r.what))
	start := time.Now()
	if err := b.make(ctx, r, dir); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	b.progress(fmt.Sprintf("%s: done in %d s", name, int(time.Since(start).Seconds()+0.5)))
	return nil
}

// make runs the recipe in a temporary directory and renames that to dir. The caller holds the part's lock, so any other
// temporary directory of the part was left by a process that died.
func (b *Builder) make(ctx context.Context, r recipe, dir string) error {
	prefix := filepath.Join(b.cache, "."+r.part.Name+".tmp-")
	left, err := filepath.Glob(prefix + "*")
	if err != nil {
		return err
	}
	for _, old := range left {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(b.cache, filepath.Base(prefix)+"*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := r.run(ctx, tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// recipe is how to make one part.
type recipe struct {
	part Part
	// key changes whenever the result may.
	key string
	// what is told to a person before it runs.
	what string
	run  func(ctx context.Context, dir string) error
}

func (b *Builder) recipe(ctx context.Context, part Part) (recipe, error) {
	switch {
	case part.Debian != "":
		return b.debianRecipe(part)
	case part.Root != nil:
		return rootRecipe(part), nil
	}
	return b.moduleRecipe(ctx, part)
}

func (b *Builder) moduleRecipe(ctx context.Context, part Part) (recipe, error) {
	module := filepath.Join(b.root, "hack", "tools", part.Name)
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return recipe{}, err
	}
	sum, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		return recipe{}, err
	}
	version, err := requiredVersion(mod, part.Module)
	if err != nil {
		return recipe{}, err
	}
	goVersion, err := output(b.goCommand(ctx, module, "env", "GOVERSION"))
	if err != nil {
		return recipe{}, err
	}
	ldflags := "-s -w"
	for _, assignment := range part.Link {
		ldflags += " -X " + withVersion(assignment, version)
	}
	// Flags are given in full, since GOFLAGS may come from the environment or from go env -w.
	args := []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", ldflags}
	inputs := [][]byte{mod, sum, []byte(goVersion), []byte(strings.Join(args, "\x00")), []byte(runtime.GOARCH)}
	own, err := filepath.Glob(filepath.Join(module, "*.go"))
	if err != nil {
		return recipe{}, err
	}
	for _, path := range own {
		text, err := os.ReadFile(path)
		if err != nil {
			return recipe{}, err
		}
		inputs = append(inputs, text)
	}
	return recipe{
		part: part,
		key:  key(inputs...),
		what: fmt.Sprintf("building %s %s (minutes, once)", part.Module, version),
		run: func(ctx context.Context, dir string) error {
			// "tool" stands for all tool directives of the module.
			_, err := output(b.goCommand(ctx, module, append(args, "-o", dir+"/", "tool")...))
			return err
		},
	}, nil
}

func (b *Builder) goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// Without cgo the programs run on every node image, and need no compiler here.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	return cmd
}

// requiredVersion reads a module's version from a go.mod file.
func requiredVersion(gomod []byte, module string) (string, error) {
	for line := range strings.Lines(string(gomod)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s", module)
}

// withVersion puts the numbers of a module's version into a line of Part.Link.
func withVersion(line, version string) string {
	version = strings.TrimPrefix(version, "v")
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return strings.NewReplacer("{version}", version, "{major}", major, "{minor}", minor).Replace(line)
}

// key is a hash of its parts and of where one ends and the next begins.
func key(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// output runs the command and returns its standard output. The error carries the end of its standard error.
func output(cmd *exec.Cmd) (string, error) {
	const tail = 4 << 10
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A compiler that outlives a cancelled go command must not keep us waiting for its pipe.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		msg := stderr.Bytes()
		if len(msg) > tail {
			msg = msg[len(msg)-tail:]
		}
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(msg))
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%w; install it or add it to PATH", err)
		}
		return "", err
	}
	return strings.TrimSpace(stdout.String()), nil
}
