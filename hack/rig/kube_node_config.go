package rig

import (
	"fmt"
	"maps"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// kubernetesDir is where a node has the kubelet and kube-proxy.
const kubernetesDir = "/opt/kubernetes"

// kubeletUnit has the place for further arguments at its end.
const kubeletUnit = `[Unit]
Description=kubelet
After=containerd.service rig-pause.service
[Service]
ExecStart=` + kubernetesDir + `/kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf%s
KillMode=process
Restart=always
RestartSec=2
[Install]
WantedBy=multi-user.target
`

const proxyUnit = `[Unit]
Description=kube-proxy
[Service]
ExecStart=` + kubernetesDir + `/kube-proxy --config=/etc/kubernetes/proxy.yaml
Restart=always
RestartSec=2
[Install]
WantedBy=multi-user.target
`

// pauseUnit gives containerd the sandbox's image, so that pods start whatever is configured of registries.
const pauseUnit = `[Unit]
Description=Import the sandbox image
After=containerd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/rig-pause
[Install]
WantedBy=multi-user.target
`

// pauseScript tags it with the name that the configuration has. Before 2.0 there is no dump without a file.
const pauseScript = `#!/bin/sh
set -e
name=$(containerd config dump 2>/dev/null | sed -n "s/^ *sandbox\(_image\)\? = ['\"]\(.*\)['\"]$/\2/p")
[ -n "$name" ] || name=$(containerd config default | sed -n "s/^ *sandbox\(_image\)\? = ['\"]\(.*\)['\"]$/\2/p")
ctr --namespace k8s.io images import /var/lib/rig/pause.tar
ctr --namespace k8s.io images tag --force ` + pauseImage + ` "$name"
`

// cniConfig has the place for the pods' addresses.
const cniConfig = `{"cniVersion": "1.0.0", "name": "rig", "plugins": [
	{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}
]}
`

// configureNode adds to a node's configuration what makes it one of the cluster. What is there already stays.
func (c *Cluster) configureNode(cfg *ClusterNodeConfig, n *ClusterNode) error {
	files, err := c.nodeFiles(cfg, n)
	if err != nil {
		return err
	}
	units := map[string]string{
		"kubelet.service":    fmt.Sprintf(kubeletUnit, arguments(append([]string{"--node-ip=" + n.IP}, cfg.KubeletArgs...))),
		"kube-proxy.service": proxyUnit,
		"rig-pause.service":  pauseUnit,
	}
	maps.Copy(files, cfg.Files)
	maps.Copy(units, cfg.Units)
	cfg.Files, cfg.Units = files, units
	return nil
}

// arguments quotes them for a line of a unit.
func arguments(args []string) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString(` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(a) + `"`)
	}
	return b.String()
}

func (c *Cluster) nodeFiles(cfg *ClusterNodeConfig, n *ClusterNode) (map[string]string, error) {
	pause, err := os.ReadFile(c.pause)
	if err != nil {
		return nil, err
	}
	kubelet, err := c.kubeconfig(userNode+n.Name, groupNodes)
	if err != nil {
		return nil, err
	}
	proxy, err := c.kubeconfig(userProxy)
	if err != nil {
		return nil, err
	}
	kubeletConfig := kubeletConfig()
	merge(kubeletConfig, cfg.KubeletConfig)
	kubeletYAML, err := yaml.Marshal(kubeletConfig)
	if err != nil {
		return nil, err
	}
	proxyYAML, err := yaml.Marshal(proxyConfig())
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"/etc/kubernetes/ca.crt":         string(c.ca.PEM()),
		"/etc/kubernetes/kubelet.conf":   string(kubelet),
		"/etc/kubernetes/kubelet.yaml":   string(kubeletYAML),
		"/etc/kubernetes/proxy.conf":     string(proxy),
		"/etc/kubernetes/proxy.yaml":     string(proxyYAML),
		"/etc/cni/net.d/10-rig.conflist": fmt.Sprintf(cniConfig, n.PodCIDR),
		"/usr/local/sbin/rig-pause":      pauseScript,
		"/var/lib/rig/pause.tar":         string(pause),
		// The registry's certificate is as good as one of an authority on the internet.
		"/etc/ssl/certs/ca-certificates.crt": string(c.ca.PEM()),
		// Pods that ignore SIGTERM would hold up PowerOff.
		"/etc/systemd/system.conf.d/rig-cluster.conf": "[Manager]\nDefaultTimeoutStopSec=5s\n",
		// /dev/kmsg is this machine's.
		"/etc/systemd/journald.conf.d/rig-cluster.conf": "[Journal]\nReadKMsg=no\n",
	}, nil
}

func kubeletConfig() table {
	return table{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"failCgroupV1":             false,
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"authentication": table{
			"anonymous": table{"enabled": false}, "webhook": table{"enabled": true},
			"x509": table{"clientCAFile": "/etc/kubernetes/ca.crt"},
		},
		"authorization": table{"mode": "Webhook"},
		"clusterDNS":    []string{clusterIP}, "clusterDomain": clusterDomain,
		// All nodes share this machine's disk, which may be rather full.
		"evictionHard":                table{"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
		"imageGCHighThresholdPercent": 100,
	}
}

func proxyConfig() table {
	return table{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "clusterCIDR": podCIDR,
		"clientConnection": table{"kubeconfig": "/etc/kubernetes/proxy.conf"},
		// Zeros leave the kernel's variables alone, which cannot be written here.
		"conntrack": table{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}
