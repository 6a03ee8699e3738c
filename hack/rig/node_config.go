package rig

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// NodeHostsDir is the registry config_path of nodes whose configuration BaseConfig made.
const NodeHostsDir = "/etc/containerd/certs.d"

// ConfigVersions lists the versions of config.toml that a containerd line reads, the newest last.
func ConfigVersions(line string) []int {
	switch {
	case strings.HasPrefix(line, "1."):
		return []int{2}
	case line == "2.3", line == "2.4":
		return []int{2, 3, 4}
	default:
		return []int{2, 3}
	}
}

// BaseConfig renders a config.toml for a node: the registry's config_path and what makes pods start on a machine
// without CAP_SYS_RESOURCE, and nothing else. version 0 is the newest that the line reads. hostsDir "" leaves
// config_path unset.
func BaseConfig(line string, version int, hostsDir string) (string, error) {
	versions := ConfigVersions(line)
	if version == 0 {
		version = versions[len(versions)-1]
	}
	if !slices.Contains(versions, version) {
		return "", fmt.Errorf("containerd %s does not read config version %d", line, version)
	}
	runtime := table{"restrict_oom_score_adj": true}
	plugins := table{}
	images := runtime
	if version == 2 {
		plugins["io.containerd.grpc.v1.cri"] = runtime
	} else {
		images = table{}
		plugins["io.containerd.cri.v1.runtime"] = runtime
		plugins["io.containerd.cri.v1.images"] = images
	}
	if hostsDir != "" {
		images["registry"] = table{"config_path": hostsDir}
	}
	text, err := toml.Marshal(table{"version": version, "plugins": plugins})
	if err != nil {
		return "", fmt.Errorf("render the configuration: %w", err)
	}
	return string(text), nil
}
