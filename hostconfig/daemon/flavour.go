package daemon

import (
	"bufio"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Flavour is how containerd came onto a node, and so who owns its configuration.
type Flavour struct {
	// Name is stock, kubeadm, eks, aks, k3s, rke2, k0s, microk8s, talos or bottlerocket.
	Name string
	// HostsDir is where such a containerd is told to look for hosts.toml files, unless somebody changed that. Empty: it is
	// not told by default. A hint: package probe proves it.
	HostsDir string
	// Native is what to set in place of containerd's own configuration, where that belongs to another program and hotplate
	// leaves it and its daemon alone. Empty where hotplate may edit it and restart containerd.
	Native string
}

// Signs are what is known of the running daemon. Each may be empty.
type Signs struct {
	// Unit is the systemd unit of its process.
	Unit string
	// Socket is the path of its socket on the node.
	Socket string
	// Argv is its command line.
	Argv []string
}

// The directory of most packages and installers.
const usualHostsDir = "/etc/containerd/certs.d"

// flavour is how a Flavour is known. What the daemon itself shows counts more than files, which stay when a node gets
// another purpose.
type flavour struct {
	Flavour
	units   []string
	below   []string // directories of its socket, its program or its configuration
	os      string   // ID of /etc/os-release
	present string   // a file or directory of the node
}

func flavours() []flavour {
	return []flavour{
		// Both start containerd as a child, whose end ends them, and write its configuration at each start. Both set
		// config_path since k3s 1.28.7 (k3s issue 9626). https://docs.k3s.io/installation/private-registry,
		// https://docs.rke2.io/install/private_registry
		{
			Flavour: Flavour{"k3s", "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
				"registries in /etc/rancher/k3s/registries.yaml, read at the next restart of k3s or k3s-agent; " +
					"since k3s 1.28.7 the hosts directory needs no restart at all"},
			units: []string{"k3s.service", "k3s-agent.service"}, below: []string{"/var/lib/rancher/k3s"},
		},
		{
			Flavour: Flavour{"rke2", "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
				"registries in /etc/rancher/rke2/registries.yaml, read at the next restart of rke2-server or rke2-agent"},
			units: []string{"rke2-server.service", "rke2-agent.service"}, below: []string{"/var/lib/rancher/rke2"},
		},
		// k0s restarts containerd by itself when a drop-in changes (k0s issue 2637). https://docs.k0sproject.io/stable/runtime/
		{
			Flavour: Flavour{"k0s", "",
				`a file in /etc/k0s/containerd.d, such as registry.toml, that sets config_path of the CRI registry to the ` +
					`hosts directory; k0s restarts containerd by itself`},
			units: []string{"k0sworker.service", "k0scontroller.service"}, below: []string{"/run/k0s", "/var/lib/k0s"},
		},
		// The snap's template sets config_path. https://microk8s.io/docs/registry-private, microk8s issue 3221
		{
			Flavour: Flavour{"microk8s", "/var/snap/microk8s/current/args/certs.d",
				"config_path in /var/snap/microk8s/current/args/containerd-template.toml, then snap restart microk8s; " +
					"the hosts directory needs no restart"},
			units: []string{"snap.microk8s.daemon-containerd.service"}, below: []string{"/var/snap/microk8s", "/snap/microk8s"},
		},
		// https://docs.siderolabs.com/talos/v1.12/reference/configuration/cri/registrymirrorconfig
		{
			Flavour: Flavour{"talos", "/etc/cri/conf.d/hosts",
				"a RegistryMirrorConfig document in the machine configuration (machine.registries before Talos 1.12)"},
			os: "talos", below: []string{"/etc/cri"},
		},
		// https://bottlerocket.dev/en/os/latest/api/settings/container-registry/
		{
			Flavour: Flavour{"bottlerocket", "", "settings.container-registry.mirrors, by apiclient set or in the user data"},
			os:      "bottlerocket",
		},
		// nodeadm writes config.toml at boot, with two directories in config_path, which containerd 2.1 and later ignores
		// (containerd issue 12415). The directory is there on Amazon Linux 2 and 2023.
		{Flavour: Flavour{"eks", usualHostsDir, ""}, present: "etc/eks"},
		// AgentBaker, parts/linux/cloud-init/artifacts/cse_config.sh, writes the directory mcr.microsoft.com in it.
		{Flavour: Flavour{"aks", usualHostsDir, ""}, present: "opt/azure/containers"},
		// kubeadm writes this file at init and join (cmd/kubeadm/app/constants). It does not configure containerd.
		{Flavour: Flavour{"kubeadm", usualHostsDir, ""}, present: "var/lib/kubelet/kubeadm-flags.env"},
	}
}

// DetectFlavour tells the flavour of a node from what is known of the daemon, and from root, the node's root directory,
// of which parts may be missing. What is none of the others is stock.
func DetectFlavour(root fs.FS, s Signs) Flavour {
	id := osID(root)
	tests := []func(flavour) bool{
		func(f flavour) bool { return slices.Contains(f.units, s.Unit) },
		func(f flavour) bool { return slices.ContainsFunc(f.below, s.isBelow) },
		func(f flavour) bool { return f.os != "" && f.os == id },
		func(f flavour) bool { return f.present != "" && exists(root, f.present) },
	}
	// k3s and RKE2 have the same socket; which of them it is, is seen by its directory if by nothing else.
	if strings.HasPrefix(s.Socket, "/run/k3s/") {
		tests = slices.Insert(tests, 2,
			func(f flavour) bool { return f.Name == "rke2" && exists(root, "var/lib/rancher/rke2") },
			func(f flavour) bool { return f.Name == "k3s" })
	}
	for _, is := range tests {
		for _, f := range flavours() {
			if is(f) {
				return s.moved(f.Flavour)
			}
		}
	}
	return Flavour{Name: "stock", HostsDir: usualHostsDir}
}

// isBelow reports whether the daemon's socket, program or configuration lies in dir.
func (s Signs) isBelow(dir string) bool {
	for _, word := range append([]string{s.Socket}, s.Argv...) {
		if _, value, ok := strings.Cut(word, "="); ok {
			word = value
		}
		if word = path.Clean(word); word == dir || strings.HasPrefix(word, dir+"/") {
			return true
		}
	}
	return false
}

// moved looks after a data directory elsewhere, which k3s and RKE2 take with --data-dir: the hosts directory is beside
// the configuration that they give containerd.
func (s Signs) moved(f Flavour) Flavour {
	const config = "/agent/etc/containerd/config.toml"
	if f.Name != "k3s" && f.Name != "rke2" {
		return f
	}
	for _, word := range s.Argv {
		if _, value, ok := strings.Cut(word, "="); ok {
			word = value
		}
		if strings.HasSuffix(word, config) {
			f.HostsDir = path.Join(path.Dir(word), "certs.d")
		}
	}
	return f
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}

// osID is ID of os-release(5), or empty.
func osID(root fs.FS) string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		f, err := root.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if id, ok := strings.CutPrefix(lines.Text(), "ID="); ok {
				return strings.Trim(id, `"'`)
			}
		}
	}
	return ""
}
