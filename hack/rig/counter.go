package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Counter is a pod on the node's network with one container that counts ten times a second, to a file and to its
// standard output, which containerd keeps as the kubelet asks it to. Nobody restarts it. Its methods may be called
// concurrently.
type Counter struct {
	// Name is that of the pod and of the container, PodID and ContainerID are CRI's.
	Name, PodID, ContainerID string

	place place
	// out and log are, for this process, the directory that is mounted into the container and containerd's log of it.
	out, log string
}

// StartCounter starts a counter and waits for its first line. The images are imported before if the daemon does not
// have them. Names are not used twice.
func (n *Node) StartCounter(ctx context.Context, name string) (*Counter, error) {
	return startCounter(ctx, n, name)
}

func startCounter(ctx context.Context, p place, name string) (*Counter, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cri, err := p.CRI(ctx)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	if err := importCounter(ctx, p, cri); err != nil {
		return nil, fmt.Errorf("import the images of counters: %w", err)
	}
	here, there, err := subdir(p, "counter-"+name)
	if err != nil {
		return nil, fmt.Errorf("start counter %s: %w", name, err)
	}
	c := &Counter{Name: name, place: p, out: here, log: filepath.Join(here, "stdout.log")}
	if err := c.start(ctx, cri, there); err != nil {
		return nil, fmt.Errorf("start counter %s: %w", name, err)
	}
	err = await(ctx, "the first line of counter "+name, func(context.Context) error {
		lines, err := c.Lines()
		if err == nil && len(lines) == 0 {
			err = errors.New("no line")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Counter) start(ctx context.Context, cri *CRI, out string) error {
	host := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: c.Name, Namespace: "default", Uid: c.Name},
		LogDirectory: out,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    c.place.cgroup(),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: host},
		},
	}
	ran, err := cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return fmt.Errorf("run the pod: %w", err)
	}
	c.PodID = ran.GetPodSandboxId()
	created, err := cri.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: c.PodID, SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: c.Name},
			Image:    &runtimeapi.ImageSpec{Image: CounterImage},
			Mounts:   []*runtimeapi.Mount{{HostPath: out, ContainerPath: "/out"}},
			LogPath:  filepath.Base(c.log),
			Linux: &runtimeapi.LinuxContainerConfig{
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: host},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("create the container: %w", err)
	}
	c.ContainerID = created.GetContainerId()
	_, err = cri.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerID})
	if err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return nil
}

// CounterStatus is what containerd says of a counter's container.
type CounterStatus struct {
	// PID is the process id of the container's first process in the PID namespace of the node, 0 when it has ended.
	PID       int
	StartedAt time.Time
	// Running is whether containerd takes it to be running.
	Running bool
}

// Status asks containerd over CRI.
func (c *Counter) Status(ctx context.Context) (CounterStatus, error) {
	cri, err := c.place.CRI(ctx)
	if err != nil {
		return CounterStatus{}, err
	}
	defer cri.Close()
	r, err := cri.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{
		ContainerId: c.ContainerID, Verbose: true,
	})
	if err != nil {
		return CounterStatus{}, fmt.Errorf("CRI status of counter %s: %w", c.Name, err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil {
		return CounterStatus{}, fmt.Errorf("CRI status of counter %s: %w", c.Name, err)
	}
	return CounterStatus{
		PID:       info.PID,
		StartedAt: time.Unix(0, r.GetStatus().GetStartedAt()),
		Running:   r.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING,
	}, nil
}

// ShimPID is the process id of the pod's shim in the PID namespace of the node.
func (c *Counter) ShimPID(ctx context.Context) (int, error) {
	out, err := run(ctx, c.place, "pgrep", "--full", "^[^ ]*containerd-shim.* -id "+c.PodID)
	if err != nil {
		return 0, fmt.Errorf("find the shim of counter %s: %w", c.Name, err)
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// Line is one number and when it was counted, by the clock that starts with the machine, to a hundredth of a second.
type Line struct {
	N  int
	At time.Duration
}

// Lines returns what it wrote to its file so far.
func (c *Counter) Lines() ([]Line, error) { return readLines(filepath.Join(c.out, "lines"), 0) }

// LogLines returns what containerd's log has of its standard output. containerd writes it a moment later.
func (c *Counter) LogLines() ([]Line, error) {
	const timeStreamAndTag = 3
	return readLines(c.log, timeStreamAndTag)
}

// readLines leaves out the first fields of each line and a last line that is not complete.
func readLines(path string, skip int) ([]Line, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lines []Line
	for text := range strings.Lines(string(text)) {
		if !strings.HasSuffix(text, "\n") {
			break
		}
		fields := strings.Fields(text)
		if len(fields) != skip+2 {
			return nil, fmt.Errorf("%s has the line %q", path, text)
		}
		n, err := strconv.Atoi(fields[skip])
		if err != nil {
			return nil, fmt.Errorf("%s has the line %q: %w", path, text, err)
		}
		at, err := time.ParseDuration(fields[skip+1] + "s")
		if err != nil {
			return nil, fmt.Errorf("%s has the line %q: %w", path, text, err)
		}
		lines = append(lines, Line{n, at})
	}
	return lines, nil
}

// Check waits until it has counted three more and containerd has logged them, and fails when it does not within ten
// seconds or a number is missing in its file or in the log. Where containerd was killed use CheckFile, for it may have
// read lines that it did not log.
func (c *Counter) Check(ctx context.Context) error {
	if err := c.CheckFile(ctx); err != nil {
		return err
	}
	lines, err := c.Lines()
	if err != nil {
		return err
	}
	return c.check(ctx, "log", len(lines), c.LogLines)
}

// CheckFile is Check without the log.
func (c *Counter) CheckFile(ctx context.Context) error {
	lines, err := c.Lines()
	if err != nil {
		return err
	}
	return c.check(ctx, "file", len(lines)+3, c.Lines)
}

// check waits until there are that many lines, and looks for missing numbers.
func (c *Counter) check(ctx context.Context, what string, want int, read func() ([]Line, error)) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	what = fmt.Sprintf("the %s of counter %s", what, c.Name)
	var lines []Line
	err := await(ctx, what+" to grow", func(context.Context) (err error) {
		lines, err = read()
		if err == nil && len(lines) < want {
			err = fmt.Errorf("it has %d lines, not %d", len(lines), want)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, l := range lines {
		if l.N != i+1 {
			return fmt.Errorf("line %d of %s has the number %d", i+1, what, l.N)
		}
	}
	return nil
}

// LargestGap is the longest time between two lines of its file; without any disturbance it is a little more than 100
// ms.
func (c *Counter) LargestGap() (time.Duration, error) {
	lines, err := c.Lines()
	if err != nil {
		return 0, err
	}
	var gap time.Duration
	for i := 1; i < len(lines); i++ {
		gap = max(gap, lines[i].At-lines[i-1].At)
	}
	return gap, nil
}
