package rig

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Lines lists the containerd lines that StartContainerd knows, oldest first.
func Lines() []string {
	return []string{"1.6", "1.7", "2.0", "2.1", "2.2", "2.3", "2.4"}
}

type table = map[string]any

// containerdPaths are the directories and sockets of one private daemon.
type containerdPaths struct {
	root, state, grpc, ttrpc, config, log string
	// private stands for the directories of the host that containerd would look into.
	private string
}

// daemonConfig renders the daemon's configuration. Everything that would touch the host's containerd, CNI, NRI or CDI
// directories points below the daemon's own.
func daemonConfig(cfg ContainerdConfig, p containerdPaths) ([]byte, error) {
	c := table{
		"version": 3,
		"root":    p.root,
		"state":   p.state,
		"imports": []any{},
		"grpc":    table{"address": p.grpc},
		"ttrpc":   table{"address": p.ttrpc},
		"plugins": table{
			"io.containerd.internal.v1.opt": table{"path": filepath.Join(p.private, "opt")},
			"io.containerd.nri.v1.nri":      table{"disable": true, "socket_path": p.grpc + ".nri"},
		},
	}
	plugins := c["plugins"].(table)
	cni := table{"conf_dir": filepath.Join(p.private, "cni/net.d")}
	if slices.Contains([]string{"1.6", "1.7", "2.0"}, cfg.Line) {
		cni["bin_dir"] = filepath.Join(p.private, "cni/bin")
	} else {
		cni["bin_dirs"] = []any{filepath.Join(p.private, "cni/bin")}
	}
	runtime := table{
		"cni": cni,
		// Without CAP_SYS_RESOURCE, as in many CI containers, runc cannot lower oom_score_adj and no pod starts.
		"restrict_oom_score_adj":       true,
		"netns_mounts_under_state_dir": true,
	}
	images := table{}
	if cfg.HostsDir != "" {
		images["registry"] = table{"config_path": cfg.HostsDir}
	}
	if strings.HasPrefix(cfg.Line, "1.") {
		c["version"] = 2
		maps.Copy(runtime, images)
		plugins["io.containerd.grpc.v1.cri"] = runtime
	} else {
		runtime["cdi_spec_dirs"] = []any{filepath.Join(p.private, "cdi")}
		plugins["io.containerd.cri.v1.runtime"] = runtime
		plugins["io.containerd.cri.v1.images"] = images
		plugins["io.containerd.image-verifier.v1.bindir"] = table{"bin_dir": filepath.Join(p.private, "verifiers")}
	}
	extra := table{}
	if err := toml.Unmarshal([]byte(cfg.ExtraConfig), &extra); err != nil {
		return nil, fmt.Errorf("parse ExtraConfig: %w", err)
	}
	merge(c, extra)
	text, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("render the configuration: %w", err)
	}
	return text, nil
}

// merge puts what src has into dst, table by table; other values are replaced.
func merge(dst, src table) {
	for k, v := range src {
		from, ok1 := v.(table)
		to, ok2 := dst[k].(table)
		if ok1 && ok2 {
			merge(to, from)
			continue
		}
		dst[k] = v
	}
}

// socketPathMax keeps the longest of the daemon's socket names within the 108 bytes of sun_path (unix(7)).
const socketPathMax = 80

// socketDir returns the directory for the daemon's sockets: dir itself, or a short one when dir's path is too long.
// Only then is it new and has to be removed.
func socketDir(dir string) (path string, isNew bool, err error) {
	if len(dir) <= socketPathMax {
		return dir, false, nil
	}
	path, err = os.MkdirTemp("/run", "rig-")
	if err != nil {
		path, err = os.MkdirTemp("/tmp", "rig-")
	}
	return path, true, err
}
