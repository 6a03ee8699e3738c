//go:build e2e

package rig_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

func TestContainerdPullsThroughHostsToml(t *testing.T) {
	ctx := t.Context()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	registry := rigtest.Registry(t, rig.RegistryConfig{
		CertPEM: cert, KeyPEM: key, Users: map[string]string{"writer": "secret"},
	})
	img, err := rig.BuildModelImage(rig.ModelSpec{Seed: 1, RawSize: 3 << 20, ShardSize: 1 << 20, GzipLayers: 2, GzipSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	push := rig.PushOptions{CA: ca.PEM(), Username: "writer", Password: "secret"}
	digest, err := rig.Push(ctx, registry.Host()+"/project/org/model:v1", img, push)
	if err != nil {
		t.Fatal(err)
	}

	hosts := t.TempDir()
	mirror := rigtest.Mirror{Host: "registry.invalid", URL: registry.URL(), Path: "project", CA: ca.PEM(),
		Username: "writer", Password: "secret"}
	mirror.Write(t, hosts)
	daemon := rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4", HostsDir: hosts})
	cri := rigtest.CRI(t, daemon)
	id, err := cri.PullImage(ctx, "registry.invalid/org/model:v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	status, err := cri.ImageStatus(ctx, "registry.invalid/org/model:v1")
	if err != nil {
		t.Fatal(err)
	}
	if want := "registry.invalid/org/model@" + digest; status.GetId() != id || !contains(status.GetRepoDigests(), want) {
		t.Errorf("image status is %v, want id %s and digest %s", status, id, want)
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func TestStopLeavesNoProcessAndNoMount(t *testing.T) {
	ctx := t.Context()
	d := rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4"})
	pid := d.PID()
	if pid == 0 {
		t.Fatal("a running daemon has pid 0")
	}
	if err := d.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/proc", "self")); err != nil {
		t.Fatal(err)
	}
	if got := d.PID(); got != 0 {
		t.Errorf("pid after Stop is %d, want 0", got)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), filepath.Dir(d.Root())) {
		t.Errorf("mounts below %s remain", filepath.Dir(d.Root()))
	}
	if c, err := net.Dial("unix", d.Address()); err == nil {
		c.Close()
		t.Error("the socket still answers after Stop")
	}
	if err := d.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := d.PID(); got == 0 || got == pid {
		t.Errorf("pid after Restart is %d, want a new one", got)
	}
}

func TestContainerdLines(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line, HostsDir: t.TempDir()})
			if !strings.HasPrefix(d.Version(), line+".") {
				t.Errorf("version is %q, want one of line %s", d.Version(), line)
			}
		})
	}
}
