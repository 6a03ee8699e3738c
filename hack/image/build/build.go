package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Programs are those of the image, as folders of the repository. A new program is one more word here; the first one is
// what the image starts when it is told nothing.
func Programs() []string {
	return []string{"cmd/hotplate-agent", "cmd/hotplate-coordinator", "cmd/hotplate"}
}

// Platforms are those that the image is made for.
func Platforms() []v1.Platform {
	return []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
}

// Config says what to build.
type Config struct {
	// Dir is the root of the repository, and of the module.
	Dir string
	// Programs and Platforms are what the functions of these names return, if they are empty.
	Programs  []string
	Platforms []v1.Platform
	// Source is what the image is built from.
	Source Source
	// Builder is a URI that says who builds, for the provenance.
	Builder string
	// Progress gets a line for each step. Nil: nobody is told.
	Progress func(line string)
}

func (c *Config) complete() error {
	if len(c.Programs) == 0 {
		c.Programs = Programs()
	}
	if len(c.Platforms) == 0 {
		c.Platforms = Platforms()
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Builder == "" {
		return errors.New("build an image: nobody is named as the builder")
	}
	for _, p := range c.Platforms {
		if _, ok := machines[p.Architecture]; !ok || p.OS != "linux" {
			return fmt.Errorf("build an image: there is none for the platform %s", p)
		}
	}
	if err := c.Source.validate(); err != nil {
		return fmt.Errorf("build an image: %w", err)
	}
	return nil
}

// Image builds the image and puts it, with all files beside it, into the directory out, in the place of what is there.
// The directory above out is used for what is not ready yet.
func Image(ctx context.Context, cfg Config, out string) (_ *Result, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b := builder{Config: cfg, work: work, ready: filepath.Join(work, "ready")}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	if err := os.Rename(b.ready, out); err != nil {
		return nil, err
	}
	return Load(out)
}

// builder is one run of Image.
type builder struct {
	Config
	work, ready string
	roots       roots
	rootsFrom   module
}

// variant is the image for one platform.
type variant struct {
	platform v1.Platform
	programs []program
	image    v1.Image
	digest   v1.Hash
}

func (b *builder) build(ctx context.Context) error {
	var err error
	if b.roots, err = readRoots(); err != nil {
		return err
	}
	if b.rootsFrom, err = moduleOf(ctx, b.Dir, rootsModule); err != nil {
		return err
	}
	base, err := layer(content{rootsPath, 0o644, b.roots.pem}, b.Source.Time, filepath.Join(b.work, "roots.tar"))
	if err != nil {
		return err
	}
	var variants []variant
	for _, p := range b.Platforms {
		v, err := b.variant(ctx, base, p)
		if err != nil {
			return err
		}
		variants = append(variants, v)
	}
	index := b.index(variants)
	b.Progress("write the image")
	if err := b.writeLayout(index); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return b.describe(index, variants)
}

// variant compiles the programs for a platform and makes the image of them.
func (b *builder) variant(ctx context.Context, base v1.Layer, p v1.Platform) (variant, error) {
	b.Progress(fmt.Sprintf("compile %d programs for %s", len(b.Programs), p))
	dir := filepath.Join(b.work, p.Architecture)
	programs, err := compile(ctx, b.Dir, dir, b.Programs, p, b.Source.Version)
	if err != nil {
		return variant{}, err
	}
	b.Progress(fmt.Sprintf("compress them for %s", p))
	layers := []fileLayer{{rootsPath, base}}
	for _, program := range programs {
		data, err := os.ReadFile(program.file)
		if err != nil {
			return variant{}, err
		}
		c := content{program.name, 0o755, data}
		l, err := layer(c, b.Source.Time, program.file+".tar")
		if err != nil {
			return variant{}, err
		}
		layers = append(layers, fileLayer{c.name, l})
	}
	v := variant{platform: p, programs: programs}
	if v.image, err = b.assemble(layers, p); err != nil {
		return variant{}, fmt.Errorf("assemble the image for %s: %w", p, err)
	}
	if v.digest, err = v.image.Digest(); err != nil {
		return variant{}, err
	}
	return v, nil
}
