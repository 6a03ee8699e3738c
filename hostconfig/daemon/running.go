package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// taskTimeout is how long the shims of one namespace may take to answer. A healthy one needs about a millisecond.
	taskTimeout = 2 * time.Second
	// maxNamed bounds how many tasks are asked one by one for the one that hangs.
	maxNamed = 64
	// youngRecord is until when a container record that CRI does not know is taken for one that it is about to know. Older
	// ones are somebody else's.
	youngRecord = 2 * time.Minute
	// criNamespace is where CRI has everything (internal/cri/constants, 2.4.2).
	criNamespace = "k8s.io"
)

// ErrShimHangs means that containerd could not list its tasks in time: a shim does not answer. A restart of the daemon
// would kill the containers of that shim.
var ErrShimHangs = errors.New("a containerd shim does not answer")

// Task is a container's process as containerd sees it.
type Task struct {
	Namespace, ID string
	PID           uint32
}

// Running is what the daemon runs at one moment.
type Running struct {
	Tasks []Task // sorted by namespace and id
	// Orphans are tasks without a container record.
	Orphans []Task
	// Strays are tasks that run and have no process in their cgroup.
	Strays []Task
	// Idle is what is half begun: CRI containers that are created and not started, containers and pods that are said to
	// run without a task, and young records that CRI does not know yet.
	Idle []string
	// Started is when each CRI container that runs was started, in nanoseconds since 1970, by its id.
	Started map[string]int64
	// Duplicates are pod sandboxes of which there are two of one name, which containerd refuses to load.
	Duplicates []string
}

// Running asks the daemon for everything that it runs. The error is ErrShimHangs when shims keep it from answering.
//
// On containerd 2.4.2 the question itself makes a later stop of the daemon hang for as long as a shim is frozen: after
// ErrShimHangs the daemon must not be restarted.
func (c *Client) Running(ctx context.Context) (Running, error) {
	spaces, err := c.ctrd.NamespaceService().List(ctx)
	if err != nil {
		return Running{}, fmt.Errorf("ask containerd for its namespaces: %w", err)
	}
	var r Running
	for _, ns := range spaces {
		tasks, orphans, err := c.tasks(namespaces.WithNamespace(ctx, ns))
		if err != nil {
			return Running{}, fmt.Errorf("namespace %s: %w", ns, err)
		}
		r.Tasks, r.Orphans = append(r.Tasks, tasks...), append(r.Orphans, orphans...)
		strays, err := c.strays(namespaces.WithNamespace(ctx, ns), tasks)
		if err != nil {
			return Running{}, fmt.Errorf("namespace %s: %w", ns, err)
		}
		r.Strays = append(r.Strays, strays...)
	}
	slices.SortFunc(r.Tasks, func(a, b Task) int { return strings.Compare(a.Namespace+"/"+a.ID, b.Namespace+"/"+b.ID) })
	known := make(map[string]bool)
	if err := c.containers(ctx, &r, known); err != nil {
		return Running{}, err
	}
	if err := c.sandboxes(ctx, &r, known); err != nil {
		return Running{}, err
	}
	return r, c.records(ctx, &r, known)
}

// late tells whether err is the end of taskTimeout, and not of ctx. The daemon knows the deadline too, and may be the first
// to say it.
func late(ctx context.Context, err error) bool {
	return status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil
}

// tasks lists those of one namespace, and which of them have no container record.
func (c *Client) tasks(ctx context.Context) (tasks, orphans []Task, err error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, taskTimeout)
	defer cancel()
	list, err := c.ctrd.TaskService().List(bounded, &tasksapi.ListTasksRequest{})
	if err != nil {
		if late(ctx, err) {
			return nil, nil, fmt.Errorf("%w: %s", ErrShimHangs, c.hanging(ctx))
		}
		return nil, nil, fmt.Errorf("ask containerd for its tasks: %w", err)
	}
	containers, err := c.ctrd.ContainerService().List(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("ask containerd for its containers: %w", err)
	}
	known := make(map[string]bool, len(containers))
	for _, one := range containers {
		known[one.ID] = true
	}
	for _, t := range list.Tasks {
		task := Task{Namespace: ns, ID: t.ID, PID: t.Pid}
		if !known[t.ID] {
			orphans = append(orphans, task)
		}
		tasks = append(tasks, task)
	}
	return tasks, orphans, nil
}

// strays are those of tasks whose shims see no process in their cgroup. containerd takes such a shim for one that never had a
// task, and ends it when it starts (core/runtime/v2/shim_load.go, shouldCleanupShim, 2.4.2; the same from 1.7.0 on). It
// happens where systemd has moved processes out of cgroups that are not its own, as a daemon-reexec does on cgroup v1.
func (c *Client) strays(ctx context.Context, tasks []Task) (strays []Task, err error) {
	for _, t := range tasks {
		bounded, cancel := context.WithTimeout(ctx, taskTimeout)
		pids, err := c.ctrd.TaskService().ListPids(bounded, &tasksapi.ListPidsRequest{ContainerID: t.ID})
		cancel()
		switch {
		case late(ctx, err):
			return nil, fmt.Errorf("%w: that of container %s", ErrShimHangs, t.ID)
		case status.Code(err) == codes.NotFound: // it has ended meanwhile
		case err != nil:
			return nil, fmt.Errorf("ask containerd for the processes of %s: %w", t.ID, err)
		case len(pids.Processes) == 0 && t.PID != 0:
			strays = append(strays, t)
		}
	}
	return strays, nil
}

// hanging names the containers whose shims do not answer, as far as it can be found out in a few seconds.
func (c *Client) hanging(ctx context.Context) string {
	containers, err := c.ctrd.ContainerService().List(ctx)
	if err != nil {
		return "which one is not known: " + err.Error()
	}
	var found []string
	for i, one := range containers {
		if i == maxNamed || len(found) == 3 {
			break
		}
		bounded, cancel := context.WithTimeout(ctx, taskTimeout)
		_, err := c.ctrd.TaskService().Get(bounded, &tasksapi.GetRequest{ContainerID: one.ID})
		if late(ctx, err) {
			found = append(found, one.ID)
		}
		cancel()
	}
	if len(found) == 0 {
		return "which one is not known"
	}
	return "that of container " + strings.Join(found, ", ")
}

// containers compares what CRI says of its containers with the tasks that there are, and adds their ids to known.
func (c *Client) containers(ctx context.Context, r *Running, known map[string]bool) error {
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("ask containerd's CRI plugin for its containers: %w", err)
	}
	hasTask := r.criTasks()
	r.Started = make(map[string]int64)
	for _, one := range list.Containers {
		known[one.Id] = true
		switch one.State {
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			r.Idle = append(r.Idle, one.Id)
			continue
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
		default:
			continue
		}
		if !hasTask[one.Id] {
			r.Idle = append(r.Idle, one.Id)
			continue
		}
		status, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: one.Id})
		if err != nil {
			return fmt.Errorf("ask containerd's CRI plugin for container %s: %w", one.Id, err)
		}
		r.Started[one.Id] = status.GetStatus().GetStartedAt()
	}
	return nil
}

// criTasks are the ids of CRI's tasks.
func (r *Running) criTasks() map[string]bool {
	ids := make(map[string]bool)
	for _, t := range r.Tasks {
		if t.Namespace == criNamespace {
			ids[t.ID] = true
		}
	}
	return ids
}

// sandboxes finds pods without a task, and two of one name: CRI reserves the name when it starts, and does not start with
// two of them (internal/cri/server/restart.go, recover, 2.4.2; containerd issue 6095).
func (c *Client) sandboxes(ctx context.Context, r *Running, known map[string]bool) error {
	list, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("ask containerd's CRI plugin for its pods: %w", err)
	}
	hasTask := r.criTasks()
	seen := make(map[string]string)
	for _, pod := range list.Items {
		known[pod.Id] = true
		if pod.State == runtimeapi.PodSandboxState_SANDBOX_READY && !hasTask[pod.Id] {
			r.Idle = append(r.Idle, pod.Id)
		}
		m := pod.GetMetadata()
		name := fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
		if other, ok := seen[name]; ok {
			r.Duplicates = append(r.Duplicates, fmt.Sprintf("%s/%s (%s and %s)", m.GetNamespace(), m.GetName(), other, pod.Id))
		}
		seen[name] = pod.Id
	}
	return nil
}

// records finds what CRI is about to create: it has a record of containerd's before CRI shows it.
func (c *Client) records(ctx context.Context, r *Running, known map[string]bool) error {
	list, err := c.ctrd.ContainerService().List(namespaces.WithNamespace(ctx, criNamespace))
	if err != nil {
		return fmt.Errorf("ask containerd for its containers: %w", err)
	}
	hasTask := r.criTasks()
	for _, one := range list {
		if !known[one.ID] && !hasTask[one.ID] && time.Since(one.CreatedAt) < youngRecord {
			r.Idle = append(r.Idle, one.ID)
		}
	}
	return nil
}

// Loss is a task that is not any more what it was.
type Loss struct {
	Task Task
	// Gone means that there is no such task any more.
	Gone bool
	// What became of it, for people.
	What string
}

func (l Loss) String() string { return l.Task.Namespace + "/" + l.Task.ID + " " + l.What }

// Changed compares what ran with what runs now and says what became of each task that is not the same any more: gone,
// with another process, or started anew. Tasks that were not there before do not count.
func (r Running) Changed(now Running) []Loss {
	pids := make(map[Task]bool, len(now.Tasks))
	there := make(map[Task]uint32, len(now.Tasks))
	for _, t := range now.Tasks {
		pids[t] = true
		there[Task{Namespace: t.Namespace, ID: t.ID}] = t.PID
	}
	var changed []Loss
	for _, t := range r.Tasks {
		switch pid, ok := there[Task{Namespace: t.Namespace, ID: t.ID}]; {
		case !ok:
			changed = append(changed, Loss{Task: t, Gone: true, What: fmt.Sprintf("(pid %d) is gone", t.PID)})
		case !pids[t]:
			changed = append(changed, Loss{Task: t, What: fmt.Sprintf("had pid %d and has %d", t.PID, pid)})
		case t.Namespace == criNamespace && r.Started[t.ID] != 0 && now.Started[t.ID] == 0:
			// It has ended since the tasks were listed.
			changed = append(changed, Loss{Task: t, Gone: true, What: fmt.Sprintf("(pid %d) does not run", t.PID)})
		case t.Namespace == criNamespace && r.Started[t.ID] != now.Started[t.ID]:
			changed = append(changed, Loss{Task: t, What: "was started anew"})
		}
	}
	return changed
}

// Ingest is a blob that is being written into the content store, or that somebody has left unfinished.
type Ingest struct {
	Ref           string
	Offset, Total int64 // in bytes
	// UpdatedAt is when its last byte came.
	UpdatedAt time.Time
}

// Ingests lists the unfinished blobs of CRI's namespace. A pull that unpacks shows none.
func (c *Client) Ingests(ctx context.Context) ([]Ingest, error) {
	list, err := c.ctrd.ContentStore().ListStatuses(namespaces.WithNamespace(ctx, criNamespace))
	if err != nil {
		return nil, fmt.Errorf("ask containerd for what it fetches: %w", err)
	}
	var all []Ingest
	for _, s := range list {
		all = append(all, Ingest{Ref: s.Ref, Offset: s.Offset, Total: s.Total, UpdatedAt: s.UpdatedAt})
	}
	slices.SortFunc(all, func(a, b Ingest) int { return strings.Compare(a.Ref, b.Ref) })
	return all, nil
}
