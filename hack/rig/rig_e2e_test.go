//go:build e2e

package rig_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// modelRef is the name by which the tests' daemons know the image that pushModel pushes.
const modelRef = "registry.invalid/org/model:v1"

// pushModel starts a registry with a small image and writes certs.d for it. It returns the image's digest.
func pushModel(t *testing.T, hosts string) (r *rig.Registry, digest string) {
	t.Helper()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	r = rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key, Users: map[string]string{"user": "secret"}})
	digest, err = rig.Push(t.Context(), r.Host()+"/project/org/model:v1", smallModel(t, rig.ModelSpec{Seed: 1}),
		rig.PushOptions{CA: ca.PEM(), Username: "user", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	rigtest.Mirror{
		Host: "registry.invalid", URL: r.URL(), Path: "project", CA: ca.PEM(), Username: "user", Password: "secret",
	}.Write(t, hosts)
	return r, digest
}

func smallModel(t *testing.T, spec rig.ModelSpec) v1.Image {
	t.Helper()
	spec.RawSize, spec.ShardSize, spec.GzipLayers, spec.GzipSize = 3<<20, 1<<20, 2, 1<<20
	img, err := rig.BuildModelImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestContainerdPullsThroughHostsToml(t *testing.T) {
	hosts := t.TempDir()
	registry, digest := pushModel(t, hosts)
	cri := rigtest.CRI(t, rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4", HostsDir: hosts}))
	id, err := cri.PullImage(t.Context(), modelRef, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, err := cri.ImageStatus(t.Context(), modelRef)
	if err != nil {
		t.Fatal(err)
	}
	want := "registry.invalid/org/model@" + digest
	if status.GetId() != id || !slices.Contains(status.GetRepoDigests(), want) {
		t.Errorf("image status is %v, want id %s and digest %s", status, id, want)
	}
	if err := cri.RemoveImage(t.Context(), modelRef); err != nil {
		t.Fatal(err)
	}
	images, err := cri.ListImages(t.Context())
	if err != nil || len(images) != 0 {
		t.Errorf("after the removal there are %v, %v, want none", images, err)
	}

	if err := registry.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := cri.PullImage(t.Context(), modelRef, nil); err == nil {
		t.Error("a pull works while the registry is stopped")
	}
	if err := registry.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := rig.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := other.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Rotate(t.Context(), cert, key); err != nil {
		t.Fatal(err)
	}
	if _, err := cri.PullImage(t.Context(), modelRef, nil); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("a pull from a certificate of another CA: %v, want an x509 error", err)
	}
}

func TestProxyInFrontOfTheRegistry(t *testing.T) {
	ctx := t.Context()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	registry := rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key})
	proxy := rigtest.Proxy(t, rig.ProxyConfig{Upstream: registry.URL(), UpstreamCA: ca.PEM(), CertPEM: cert, KeyPEM: key})
	// The push goes through the proxy as well.
	arm := smallModel(t, rig.ModelSpec{Seed: 2, Architecture: "arm64"})
	amd := smallModel(t, rig.ModelSpec{Seed: 2})
	ref := proxy.Host() + "/org/index:v1"
	digest, err := rig.PushIndex(ctx, ref, []v1.Image{arm, amd}, rig.PushOptions{CA: ca.PEM()})
	if err != nil {
		t.Fatal(err)
	}
	hosts := t.TempDir()
	rigtest.Mirror{Host: proxy.Host(), URL: proxy.URL(), CA: ca.PEM()}.Write(t, hosts)
	cri := rigtest.CRI(t, rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4", HostsDir: hosts}))

	proxy.SetScript(func(*http.Request) rig.Fault { return rig.Answer(http.StatusServiceUnavailable) })
	if _, err := cri.PullImage(ctx, ref, nil); err == nil {
		t.Error("a pull works while the proxy answers 503")
	}
	proxy.SetScript(nil)
	proxy.Reset()
	if _, err := cri.PullImage(ctx, ref, nil); err != nil {
		t.Fatal(err)
	}
	status, err := cri.ImageStatus(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if want := proxy.Host() + "/org/index@" + digest; !slices.Contains(status.GetRepoDigests(), want) {
		t.Errorf("digests are %q, want %q", status.GetRepoDigests(), want)
	}
	var blobs int
	for _, r := range proxy.Requests() {
		if strings.Contains(r.Path, "/blobs/") && r.Status == http.StatusOK && r.Sent > 0 {
			blobs++
		}
	}
	// The configuration, the base, two layers of software and the weights, of one platform.
	if blobs != 5 {
		t.Errorf("%d blobs were fetched, want 5: %+v", blobs, proxy.Requests())
	}
}

func TestStopLeavesNoProcessAndNoMount(t *testing.T) {
	ctx := t.Context()
	hosts := t.TempDir()
	pushModel(t, hosts)
	d := rigtest.Containerd(t, rig.ContainerdConfig{
		Line: "2.4", HostsDir: hosts,
		ExtraConfig: fmt.Sprintf("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = %q\n", modelRef),
	})
	cri := rigtest.CRI(t, d)
	// A pod on the node's network needs no CNI plugin. Its only container is the sandbox's, which runs the image's
	// entry point.
	_, err := cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "1"},
		LogDirectory: t.TempDir(),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	pid := d.PID()
	shims := processesWith(t, d.Address())
	if pid == 0 || len(shims) == 0 {
		t.Fatalf("the daemon's pid is %d and its shims are %v, want both", pid, shims)
	}

	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := d.PID(); got == 0 || got == pid {
		t.Errorf("after Restart the pid is %d, want a new one", got)
	}
	if got := processesWith(t, d.Address()); !slices.Equal(got, shims) {
		t.Errorf("after Restart the shims are %v, want %v still", got, shims)
	}

	// Killed, the daemon cannot end its pod, so that Stop has to.
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	checkStopped(t, d)
	if err := d.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	checkStopped(t, d)
}

func checkStopped(t *testing.T, d *rig.Containerd) {
	t.Helper()
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.PID(); got != 0 {
		t.Errorf("after Stop the pid is %d, want 0", got)
	}
	dir := filepath.Dir(d.Root())
	waitFor(t, func() bool { return len(processesWith(t, dir)) == 0 })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("mounts below %s remain", dir)
	}
	if c, err := net.Dial("unix", d.Address()); err == nil {
		t.Errorf("the socket still answers after Stop; close: %v", c.Close())
	}
}

// processesWith lists the processes that have an argument which contains s.
func processesWith(t *testing.T, s string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range lines {
		line, err := os.ReadFile(path) // a process that has gone meanwhile does not count
		if err == nil && strings.Contains(string(line), s) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

func TestLongDirectoryGetsShortSockets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 20))
	d := rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4", Dir: dir})
	if len(d.Address()) >= 100 {
		t.Errorf("the socket's path %q has %d bytes, want less than 100", d.Address(), len(d.Address()))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(d.Address())); !os.IsNotExist(err) {
		t.Errorf("after Close the sockets' directory: %v, want that it is gone", err)
	}
}

func TestStartSaysWhyContainerdEnded(t *testing.T) {
	rigtest.RequireRoot(t)
	_, err := rig.StartContainerd(t.Context(), rig.ContainerdConfig{
		Line: "2.4", Dir: t.TempDir(), ExtraConfig: `required_plugins = ["io.containerd.rig.v1.missing"]`,
	})
	if err == nil || !strings.Contains(err.Error(), "io.containerd.rig.v1.missing") {
		t.Errorf("start: %v, want an error with the log's line about the missing plugin", err)
	}
}

func TestContainerdLines(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			hosts := t.TempDir()
			_, digest := pushModel(t, hosts)
			d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line, HostsDir: hosts})
			if !strings.HasPrefix(d.Version(), line+".") {
				t.Errorf("version is %q, want one of line %s", d.Version(), line)
			}
			cri := rigtest.CRI(t, d)
			if _, err := cri.PullImage(t.Context(), modelRef, nil); err != nil {
				t.Fatal(err)
			}
			status, err := cri.ImageStatus(t.Context(), modelRef)
			if err != nil {
				t.Fatal(err)
			}
			if want := "registry.invalid/org/model@" + digest; !slices.Contains(status.GetRepoDigests(), want) {
				t.Errorf("digests are %q, want %q", status.GetRepoDigests(), want)
			}
		})
	}
}
