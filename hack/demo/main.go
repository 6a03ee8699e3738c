// Command demo runs hotplate's main job on real parts, for a person to watch: a real containerd and a real registry, a
// model image, the agent with one config, a rotation of all certificates, a change from cache to wall, and an uninstall.
//
// It needs root. Everything is kept under .demo, sockets aside; DEMO_SIZE is the size of the model image in MB. It ends
// with "demo: ok" and .demo/result.json, or with what failed and a non-zero code; either way nothing is left running.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// defaultSize is the size of the model image in MB.
const defaultSize = 1500

// deadline bounds the whole demo.
const deadline = 20 * time.Minute

func main() {
	// A reader of our output that goes away must not end us before we have ended what we started.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, deadline)
	err := run(ctx)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\ndemo: ok")
}

func run(ctx context.Context) error {
	size := int64(defaultSize)
	if s := os.Getenv("DEMO_SIZE"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 50 {
			return fmt.Errorf("DEMO_SIZE=%q: give a number of MB, at least 50", s)
		}
		size = n
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("containerd needs root: run make demo as root")
	}
	dir, err := filepath.Abs(".demo")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove what an earlier demo left: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	d := &demo{dir: dir, size: size << 20}
	err = d.play(ctx)
	if cerr := d.close(); err == nil {
		err = cerr
	}
	d.result.OK = err == nil
	if err != nil {
		d.result.Error = err.Error()
	}
	if werr := writeResult(filepath.Join(dir, "result.json"), d.result); err == nil {
		err = werr
	}
	return err
}

// result is .demo/result.json.
type result struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// ImageBytes is the compressed size of the model image.
	ImageBytes int64 `json:"imageBytes"`
	// HotplateSeconds is from the agent's config to Ready; ContainerdSeconds the same image by CRI's PullImage on a
	// fresh containerd with the same hosts.toml. Both times the registry's files were in the page cache.
	HotplateSeconds   float64 `json:"hotplateSeconds"`
	ContainerdSeconds float64 `json:"containerdSeconds"`
	// DriftRepairSeconds is from somebody else's change of a hosts.toml to its repair.
	DriftRepairSeconds float64 `json:"driftRepairSeconds"`
	Verdict            string  `json:"verdict"`
	ContainerdVersion  string  `json:"containerdVersion"`
	// ContainerdRestarted is whether containerd's process changed at any time.
	ContainerdRestarted bool `json:"containerdRestarted"`
	// Restored is whether certs.d was after the uninstall what it was before the agent.
	Restored bool `json:"restored"`
}

func writeResult(path string, r result) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return apply.WriteFile(path, append(data, '\n'), 0o644)
}
