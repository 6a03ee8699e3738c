package rig

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/pelletier/go-toml/v2"
)

// CounterImage is the image of counters. It is in no registry.
const CounterImage = "registry.invalid/rig/counter:v1"

// counterScript counts ten times a second, to a file and to its standard output. Each line has the number and the
// seconds since the machine started.
const counterScript = `#!/usr/bin/busybox sh
trap 'exit 0' TERM
n=0
while :; do
	n=$((n + 1))
	read -r uptime _ </proc/uptime
	echo "$n $uptime" >>/out/lines
	echo "$n $uptime"
	sleep 0.1
done
`

// counterImages are the images that a pod with a counter needs, by name. sandbox is what the daemon calls its pause
// image.
func counterImages(ctx context.Context, sandbox string) (map[name.Tag]v1.Image, error) {
	root, err := ensurePart(ctx, "node-root")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(filepath.Join(root, "usr/bin/busybox"))
	if err != nil {
		return nil, err
	}
	counter, err := assemble([]tree{{types.OCILayer, []entry{
		dir("usr/", 0o755),
		dir("usr/bin/", 0o755),
		file("usr/bin/busybox", 0o755, busybox),
		{header: tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/sleep", Linkname: "busybox", Mode: 0o777}},
		file("usr/bin/serve", 0o755, []byte(counterScript)),
		dir("models/", 0o755),
		dir("out/", 0o755),
	}, "counter"}}, "", "")
	if err != nil {
		return nil, err
	}
	pause, err := assemble([]tree{{types.OCILayer, baseFiles(0), "pause"}}, "", "")
	if err != nil {
		return nil, err
	}
	images := map[name.Tag]v1.Image{}
	for ref, img := range map[string]v1.Image{CounterImage: counter, sandbox: pause} {
		tag, err := name.NewTag(ref, name.StrictValidation)
		if err != nil {
			return nil, err
		}
		images[tag] = img
	}
	return images, nil
}

// importCounter gives the daemon the counters' images, unless it has them, and waits until CRI knows them.
func importCounter(ctx context.Context, p place, cri *CRI) error {
	containerd, ctr := p.daemon()
	sandbox, err := sandboxImage(ctx, p, containerd)
	if err != nil {
		return err
	}
	known := func(ctx context.Context) error {
		for _, ref := range []string{CounterImage, sandbox} {
			if img, err := cri.ImageStatus(ctx, ref); err != nil || img == nil {
				return errors.Join(fmt.Errorf("CRI does not know %s", ref), err)
			}
		}
		return nil
	}
	if known(ctx) == nil {
		return nil
	}
	images, err := counterImages(ctx, sandbox)
	if err != nil {
		return err
	}
	here, there := p.shared()
	if err := os.MkdirAll(here, 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(here, "images-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(tarball.MultiWrite(images, file), file.Close()); err != nil {
		return fmt.Errorf("write the images: %w", err)
	}
	archive := filepath.Join(there, filepath.Base(file.Name()))
	if _, err := run(ctx, p, append(ctr, "--namespace", "k8s.io", "images", "import", archive)...); err != nil {
		return err
	}
	// CRI learns of images by events.
	return await(ctx, "CRI to know the images", known)
}

// sandboxImage asks the daemon's program what its configuration says.
func sandboxImage(ctx context.Context, p place, containerd []string) (string, error) {
	text, err := run(ctx, p, append(containerd, "config", "dump")...)
	if err != nil {
		// Before 2.0 it does not dump a configuration that has no file.
		var defaultErr error
		if text, defaultErr = run(ctx, p, append(containerd, "config", "default")...); defaultErr != nil {
			return "", errors.Join(err, defaultErr)
		}
	}
	var config struct {
		Plugins map[string]struct {
			Old    string `toml:"sandbox_image"`
			Pinned struct {
				Sandbox string `toml:"sandbox"`
			} `toml:"pinned_images"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal([]byte(text), &config); err != nil {
		return "", fmt.Errorf("parse what containerd config dump prints: %w", err)
	}
	if ref := config.Plugins["io.containerd.cri.v1.images"].Pinned.Sandbox; ref != "" {
		return ref, nil
	}
	if ref := config.Plugins["io.containerd.grpc.v1.cri"].Old; ref != "" {
		return ref, nil
	}
	return "", errors.New("containerd config dump names no sandbox image")
}
