package daemon

import (
	"testing"
	"testing/fstest"
)

func TestDetectFlavour(t *testing.T) {
	file := &fstest.MapFile{}
	release := func(id string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("NAME=Some Linux\nVERSION_ID=1\nID=" + id + "\n")}
	}
	for name, c := range map[string]struct {
		root      fstest.MapFS
		signs     Signs
		want      string
		hostsDir  string
		untouched bool // hotplate leaves it alone
	}{
		"a package of a distribution": {
			root: fstest.MapFS{"etc/os-release": release("debian")}, signs: Signs{Unit: "containerd.service"},
			want: "stock", hostsDir: "/etc/containerd/certs.d",
		},
		"nothing is known": {want: "stock", hostsDir: "/etc/containerd/certs.d"},
		"kubeadm": {
			root:  fstest.MapFS{"var/lib/kubelet/kubeadm-flags.env": file, "etc/os-release": release("ubuntu")},
			signs: Signs{Unit: "containerd.service", Socket: "/run/containerd/containerd.sock"},
			want:  "kubeadm", hostsDir: "/etc/containerd/certs.d",
		},
		"eks": {
			root:  fstest.MapFS{"etc/eks/image-credential-provider/config.json": file, "etc/os-release": release(`"amzn"`)},
			signs: Signs{Unit: "containerd.service"}, want: "eks", hostsDir: "/etc/containerd/certs.d",
		},
		"aks": {
			root:  fstest.MapFS{"opt/azure/containers/provision.sh": file, "var/lib/kubelet/kubeconfig": file},
			signs: Signs{Unit: "containerd.service"}, want: "aks", hostsDir: "/etc/containerd/certs.d",
		},
		"k3s by its unit": {
			signs: Signs{Unit: "k3s-agent.service"}, want: "k3s",
			hostsDir: "/var/lib/rancher/k3s/agent/etc/containerd/certs.d", untouched: true,
		},
		"k3s by its program, in a unit of another name": {
			signs: Signs{Unit: "edge.service", Socket: "/run/k3s/containerd/containerd.sock", Argv: []string{
				"containerd", "-c", "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
				"--root", "/var/lib/rancher/k3s/agent/containerd"}},
			want: "k3s", hostsDir: "/var/lib/rancher/k3s/agent/etc/containerd/certs.d", untouched: true,
		},
		"k3s with its data elsewhere": {
			signs: Signs{Unit: "k3s.service", Argv: []string{"containerd", "-c", "/data/agent/etc/containerd/config.toml"}},
			want:  "k3s", hostsDir: "/data/agent/etc/containerd/certs.d", untouched: true,
		},
		"k3s by its socket alone": {
			signs: Signs{Socket: "/run/k3s/containerd/containerd.sock"}, want: "k3s",
			hostsDir: "/var/lib/rancher/k3s/agent/etc/containerd/certs.d", untouched: true,
		},
		"rke2 by the socket of k3s": {
			root:  fstest.MapFS{"var/lib/rancher/rke2/agent/etc/containerd/config.toml": file},
			signs: Signs{Socket: "/run/k3s/containerd/containerd.sock"}, want: "rke2",
			hostsDir: "/var/lib/rancher/rke2/agent/etc/containerd/certs.d", untouched: true,
		},
		"rke2 by its unit, where k3s was before": {
			root:  fstest.MapFS{"var/lib/rancher/k3s/agent/x": file},
			signs: Signs{Unit: "rke2-server.service", Socket: "/run/k3s/containerd/containerd.sock"}, want: "rke2",
			hostsDir: "/var/lib/rancher/rke2/agent/etc/containerd/certs.d", untouched: true,
		},
		"a stock containerd, where rke2 was before": {
			root:  fstest.MapFS{"var/lib/rancher/rke2/agent/x": file},
			signs: Signs{Unit: "containerd.service", Socket: "/run/containerd/containerd.sock"}, want: "stock",
			hostsDir: "/etc/containerd/certs.d",
		},
		"k0s by its unit":   {signs: Signs{Unit: "k0sworker.service"}, want: "k0s", untouched: true},
		"k0s by its socket": {signs: Signs{Socket: "/run/k0s/containerd.sock"}, want: "k0s", untouched: true},
		"k0s by its command line": {
			signs: Signs{Argv: []string{"/var/lib/k0s/bin/containerd", "--config=/etc/k0s/containerd.toml"}}, want: "k0s",
			untouched: true,
		},
		"microk8s by its unit": {
			signs: Signs{Unit: "snap.microk8s.daemon-containerd.service"}, want: "microk8s",
			hostsDir: "/var/snap/microk8s/current/args/certs.d", untouched: true,
		},
		"microk8s by its socket": {
			signs: Signs{Socket: "/var/snap/microk8s/common/run/containerd.sock"}, want: "microk8s",
			hostsDir: "/var/snap/microk8s/current/args/certs.d", untouched: true,
		},
		"talos": {
			root:  fstest.MapFS{"etc/os-release": release("talos")},
			signs: Signs{Socket: "/run/containerd/containerd.sock"}, want: "talos", hostsDir: "/etc/cri/conf.d/hosts",
			untouched: true,
		},
		"talos without os-release": {
			signs: Signs{Argv: []string{"/bin/containerd", "--config=/etc/cri/containerd.toml"}}, want: "talos",
			hostsDir: "/etc/cri/conf.d/hosts", untouched: true,
		},
		"bottlerocket, which is on eks too": {
			root:  fstest.MapFS{"usr/lib/os-release": release("bottlerocket"), "etc/eks/x": file},
			signs: Signs{Unit: "containerd.service"}, want: "bottlerocket", untouched: true,
		},
		"a name that only begins like one": {
			signs: Signs{Unit: "k3s-backup.service", Argv: []string{"/var/lib/k0st/containerd"}}, want: "stock",
			hostsDir: "/etc/containerd/certs.d",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root == nil {
				c.root = fstest.MapFS{}
			}
			got := DetectFlavour(c.root, c.signs)
			if got.Name != c.want || got.HostsDir != c.hostsDir {
				t.Errorf("%s with %q, not %s with %q", got.Name, got.HostsDir, c.want, c.hostsDir)
			}
			if (got.Native != "") != c.untouched {
				t.Errorf("native setting: %q", got.Native)
			}
		})
	}
}
