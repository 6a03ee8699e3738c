//go:build e2e

package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// TestOnNode runs this package's tests on a node, as uid 0 without any capability, in PID and mount namespaces of their
// own, as a pod of hotplate's would.
func TestOnNode(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4", NoCRI: true})
	program := buildTests(t)
	mount := func(dirs ...string) []rig.SandboxMount {
		mounts := []rig.SandboxMount{{Target: "/tmp"}}
		for _, dir := range append(dirs, "/etc/systemd/system", "/var/lib/hotplate-test") {
			mounts = append(mounts, rig.SandboxMount{Source: dir})
		}
		return mounts
	}
	for _, way := range []struct {
		name   string
		mounts []rig.SandboxMount
		uid    uint32
		run    string
	}{
		{name: "by PID 1's own socket", mounts: mount("/run/systemd"), run: "^TestNode"},
		{name: "by the message bus", mounts: mount("/run/dbus"), run: "^TestNode"},
		{name: "as somebody else", mounts: mount("/run/systemd", "/run/dbus"), uid: 1000, run: "^TestNodeLetsNobody"},
	} {
		t.Run(way.name, func(t *testing.T) {
			s, err := n.RunSandboxed(t.Context(), rig.SandboxConfig{
				Program: program, Argv: []string{"/systemd.test", "-test.v", "-test.run=" + way.run, "-test.parallel=8"},
				Env: []string{dirVariable + "=/var/lib/hotplate-test"}, Mounts: way.mounts, UID: way.uid,
			})
			if err != nil {
				t.Fatal(err)
			}
			status, err := s.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("on the node:\n%s", s.Output())
			if status != 0 {
				t.Errorf("the tests on the node failed (%d)", status)
			}
		})
	}
}

// buildTests builds the tests that run on a node, statically linked.
func buildTests(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "systemd.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "onnode", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests for the node: %v\n%s", err, out)
	}
	return path
}
