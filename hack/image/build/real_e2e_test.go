//go:build e2e

package build_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/hotplate-dev/hotplate/hack/image/build"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// buildReal builds the image of the tree in dir.
func buildReal(t *testing.T, dir string, source build.Source) *build.Result {
	t.Helper()
	r, err := build.Image(t.Context(), build.Config{
		Dir: dir, Source: source, Builder: "https://builder.example.com/1", Progress: func(line string) { t.Log(line) },
	}, filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRealImage builds the image, pushes it, pulls it as the kubelet does, and runs each program of it in a container.
// With HOTPLATE_FULL=1 it is built a second time, of a copy of the tree and with an empty build cache.
func TestRealImage(t *testing.T) {
	rigtest.RequireRoot(t)
	source, err := build.FromGit(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	r := buildReal(t, root, source)
	if err := validate.Index(r.Index); err != nil {
		t.Errorf("the image is not sound: %v", err)
	}
	t.Run("runs in containerd", func(t *testing.T) { pullAndRun(t, r, source.Version) })
	t.Run("is the same from a copy of the tree", func(t *testing.T) {
		if !rigtest.Full() {
			t.Skip("compiling everything twice takes minutes: set HOTPLATE_FULL=1")
		}
		t.Setenv("GOCACHE", t.TempDir())
		if again := buildReal(t, copyOfTree(t), source); again.Digest != r.Digest {
			t.Errorf("the digest is %s, of a copy of the tree %s", r.Digest, again.Digest)
		}
	})
}

// copyOfTree copies the files that git does not ignore.
func copyOfTree(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const copyFiles = `git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$0"`
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", "set -o pipefail; "+copyFiles, dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	return dir
}

func pullAndRun(t *testing.T, r *build.Result, version string) {
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	registry := rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key})
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	pushed, err := r.Push(t.Context(), registry.Host()+"/project/hotplate:v1", build.PushOptions{CA: ca.PEM()})
	if err != nil {
		t.Fatal(err)
	}
	if want := registry.Host() + "/project/hotplate@" + r.Digest.String(); pushed != want {
		t.Errorf("pushed as %s, want %s", pushed, want)
	}
	hosts := t.TempDir()
	rigtest.Mirror{Host: "registry.example.com", URL: registry.URL(), CA: ca.PEM()}.Write(t, hosts)
	s := rigtest.Supervisor(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4", HostsDir: hosts}})
	cri, err := s.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	const ref = "registry.example.com/project/hotplate:v1"
	if _, err := cri.PullImage(t.Context(), ref, nil); err != nil {
		t.Fatal(err)
	}
	status, err := cri.ImageStatus(t.Context(), ref)
	if want := "registry.example.com/project/hotplate@" + r.Digest.String(); err != nil || !slices.Contains(status.GetRepoDigests(), want) {
		t.Errorf("containerd has %v, %v, want %s", status, err, want)
	}
	p := pod{cri: cri, id: rigtest.Counter(t, s, "pod").PodID}
	p.readConfig(t)
	for _, name := range build.Programs() {
		name = path.Base(name)
		// Any user can run it, and so can root without a capability.
		for _, user := range []int64{0, 65532} {
			out, code := p.run(t, ref, []string{name, "--version"}, user)
			if code != 0 || !strings.Contains(out, name) || !strings.Contains(out, "version "+version+"\n") {
				t.Errorf("%s --version of user %d ends with %d and prints %q, want version %s", name, user, code, out, version)
			}
		}
	}
	if out, code := p.run(t, ref, nil, 0, "--version"); code != 0 || !strings.Contains(out, "hotplate-agent version") {
		t.Errorf("the image by itself ends with %d and prints %q, want the agent's version", code, out)
	}
}

// pod is one that runs already, in which containers are started.
type pod struct {
	cri    *rig.CRI
	id     string
	config runtimeapi.PodSandboxConfig
}

// readConfig asks in which cgroup its containers are to be.
func (p *pod) readConfig(t *testing.T) {
	t.Helper()
	status, err := p.cri.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Config struct {
			Linux struct {
				CgroupParent string `json:"cgroup_parent"`
			} `json:"linux"`
		} `json:"config"`
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil || info.Config.Linux.CgroupParent == "" {
		t.Fatalf("the pod's cgroup: %v in %s", err, status.GetInfo())
	}
	p.config.Metadata = status.GetStatus().GetMetadata()
	p.config.LogDirectory = t.TempDir()
	p.config.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: info.Config.Linux.CgroupParent}
}

// run runs a command to its end, as the chart does: without capabilities, on a read-only root.
func (p *pod) run(t *testing.T, image string, command []string, user int64, args ...string) (out string, code int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	created, err := p.cri.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: &p.config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "run"},
			Image:    &runtimeapi.ImageSpec{Image: image},
			Command:  command, Args: args,
			LogPath: "run.log",
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
				Capabilities:     &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
				RunAsUser:        &runtimeapi.Int64Value{Value: user},
				ReadonlyRootfs:   true, NoNewPrivs: true,
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetContainerId()
	defer func() {
		if _, err := p.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
	}()
	if _, err := p.cri.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		status, err := p.cri.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		if status.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			tick.Stop()
			code = status.GetStatus().GetExitCode()
			break
		}
	}
	log := filepath.Join(p.config.LogDirectory, "run.log")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	const timeStreamAndTag = 3
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(line, " ", timeStreamAndTag+1)
		out += fields[len(fields)-1]
	}
	return out, code
}
