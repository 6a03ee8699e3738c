package tools

import (
	"fmt"
	"strings"
)

// Part is one or more programs that are built together from one nested module, or taken from one Debian package; or it is
// the root directory of a Debian system.
type Part struct {
	// Name is the part's name on the command line and its directory below hack/tools.
	Name string
	// Module is the module whose version is the part's version.
	Module string
	// Link sets Go variables, by lines as "main.version={version}". {version} is the part's version without its "v",
	// {major} and {minor} are its first two numbers.
	Link []string
	// Debian is the Debian package to unpack. Set instead of Module.
	Debian string
	// Wants is what the Debian program's --version must contain, since a package has other versions in other releases.
	Wants string
	// Root lists the packages of a Debian system to bootstrap, beside the essential ones. Set instead of Module.
	Root []string
	// Default says that tests need the part unless they are told to run more than usual.
	Default bool
}

const (
	containerd1 = "github.com/containerd/containerd"
	containerd2 = "github.com/containerd/containerd/v2"
)

// Parts lists every part that can be built, in the order in which "all" builds them.
func Parts() []Part {
	v1, v2 := []string{containerd1 + "/version.Version={version}"}, []string{containerd2 + "/version.Version={version}"}
	return []Part{
		{Name: "containerd-2.4", Module: containerd2, Link: v2, Default: true},
		{Name: "registry", Module: "github.com/distribution/distribution/v3", Default: true,
			Link: []string{"github.com/distribution/distribution/v3/version.version={version}"}},
		{Name: "containerd-1.7", Module: containerd1, Link: v1, Default: true},
		{Name: "golangci-lint", Module: "github.com/golangci/golangci-lint/v2", Default: true,
			Link: []string{"main.version={version}"}},
		{Name: "node-root", Default: true, Root: []string{
			"systemd", "systemd-sysv", "dbus", "iproute2", "ca-certificates", "procps", "kmod", "runc", "busybox-static",
			"nftables", // for kube-proxy
		}},
		{Name: "containerd-2.3", Module: containerd2, Link: v2},
		{Name: "containerd-2.2", Module: containerd2, Link: v2},
		{Name: "containerd-2.1", Module: containerd2, Link: v2},
		{Name: "containerd-2.0", Module: containerd2, Link: v2},
		{Name: "containerd-1.6", Debian: "containerd", Wants: " 1.6."},
		{Name: "kubernetes-1.36", Module: "k8s.io/kubernetes", Link: kubernetesVersion()},
		{Name: "etcd", Module: "go.etcd.io/etcd/server/v3"},
		{Name: "cni", Module: "github.com/containernetworking/plugins",
			Link: []string{"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v{version}"}},
		{Name: "coredns", Module: "github.com/coredns/coredns"},
		{Name: "helm", Module: "helm.sh/helm/v4", Link: []string{"helm.sh/helm/v4/internal/version.version=v{version}"}},
	}
}

// kubernetesVersion is what upstream's build links in. Without it kubectl and helm cannot parse the API server's version.
func kubernetesVersion() []string {
	var link []string
	for _, pkg := range []string{"k8s.io/client-go/pkg/version", "k8s.io/component-base/version"} {
		link = append(link, pkg+".gitVersion=v{version}", pkg+".gitMajor={major}", pkg+".gitMinor={minor}")
	}
	return link
}

// Lookup returns the part of that name. The error lists the names that there are.
func Lookup(name string) (Part, error) {
	var names []string
	for _, p := range Parts() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Part{}, fmt.Errorf("no part is named %q; there are %s", name, strings.Join(names, ", "))
}

// Package is a Debian package that the rig runs programs of.
type Package struct {
	// Name is the package's name.
	Name string
	// Program is a program of it. Where dpkg is missing, a program on the PATH stands for the package.
	Program string
	// Reason says what needs it.
	Reason string
}

// Packages lists the Debian packages that the rig needs on the machine.
func Packages() []Package {
	return []Package{
		{Name: "runc", Program: "runc", Reason: "containerd runs containers with it"},
		{Name: "debootstrap", Program: "debootstrap", Reason: "makes the root of systemd nodes"},
		{Name: "systemd-container", Program: "systemd-nspawn", Reason: "boots systemd nodes"},
		{Name: "iproute2", Program: "ip", Reason: "connects the nodes of a cluster"},
	}
}
