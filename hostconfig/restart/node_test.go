package restart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

const (
	unitName  = "containerd.service"
	binary    = "/usr/bin/containerd"
	hostsDir  = "/etc/containerd/certs.d"
	stateDir  = "/var/lib/hotplate"
	version   = "2.4.2"
	secret    = "hunter2-is-a-password"
	bootFiles = "/proc/sys/kernel/random/boot_id"

	// startTakes and criTakes are no multiples of poll, so that it is known what a poll sees.
	startTakes = 130 * time.Millisecond
	criTakes   = 60 * time.Millisecond
	testSoak   = 3 * time.Second
)

// oldConfig is a configuration with which containerd does not read the hosts directory.
const oldConfig = `version = 3
# by hand
[plugins.'io.containerd.cri.v1.images'.registry.configs.'registry.example.com'.auth]
  password = '` + secret + `'
`

// fault is what a configuration does to containerd.
type fault string

const (
	good         fault = "a good one"
	doesNotStart fault = "containerd does not start with it"
	hangs        fault = "containerd hangs with it"
	criDown      fault = "CRI does not load with it"
	ignores      fault = "containerd ignores the directory with it"
	dies         fault = "containerd dies a moment after its start with it"
	slow         fault = "containerd is slow to start with it"
	loses        fault = "containers are lost with it"
)

// node is a node: its files below a directory, a fake systemd, and a fake containerd that does what its configuration says.
type node struct {
	*testing.T
	root  string
	sys   *systemdtest.Fake
	ctrd  *containerd
	unit  systemdtest.Service
	boots int
	log   *logBuffer
	soak  time.Duration
	old   string // the configuration at first; empty where there is no file
	// others are further services, which run.
	others []systemdtest.Service
	// cfg, if not nil, changes the Config of each agent.
	cfg func(*Config)
}

// newNode makes a node on which containerd has run for a while. It is for a bubble of synctest.
func newNode(t *testing.T, change ...func(*node)) *node {
	n := &node{T: t, root: t.TempDir(), sys: systemdtest.New(), log: &logBuffer{}, soak: testSoak, old: oldConfig}
	n.ctrd = &containerd{node: n, faults: map[bool]fault{}, criTakes: criTakes}
	n.ctrd.tasks = []daemon.Task{{Namespace: "k8s.io", ID: "one", PID: 1001}, {Namespace: "k8s.io", ID: "two", PID: 1002}}
	for _, dir := range []string{"/etc/containerd", "/etc/systemd/system", stateDir, filepath.Dir(bootFiles), "/usr/bin"} {
		if err := os.MkdirAll(n.at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.sys.Root, n.sys.UnitDir = n.root, "/etc/systemd/system"
	n.sys.Programs[binary] = n.ctrd.program
	n.unit = systemdtest.Service{
		Name: unitName, KillMode: "process", OnStart: n.ctrd.start, StartTakes: startTakes, RestartDelay: 5 * time.Second,
		Argv: []string{binary},
	}
	for _, c := range change {
		c(n)
	}
	if n.old != "" {
		n.write(usualConfig, n.old)
	}
	n.sys.Define(append(n.others, n.unit)...)
	t.Cleanup(func() { n.sys.Close() })
	for _, s := range append(n.others, n.unit) {
		if err := n.sys.Enable(t.Context(), s.Name); err != nil {
			t.Fatal(err)
		}
	}
	n.boot()
	return n
}

// at is where a file of the node is.
func (n *node) at(path string) string { return filepath.Join(n.root, path) }

func (n *node) write(path, text string) {
	n.Helper()
	if err := os.WriteFile(n.at(path), []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
}

// read returns what a file holds; empty where there is none.
func (n *node) read(path string) string {
	data, err := os.ReadFile(n.at(path))
	if err != nil && !os.IsNotExist(err) {
		n.Fatal(err)
	}
	return string(data)
}

func (n *node) has(path string) bool {
	_, err := os.Lstat(n.at(path))
	return err == nil
}

// boot starts the node, and waits until it is quiet.
func (n *node) boot() {
	n.Helper()
	n.boots++
	n.write(bootFiles, fmt.Sprintf("boot-%d\n", n.boots))
	if err := n.sys.Reboot(); err != nil {
		n.Fatal(err)
	}
	time.Sleep(time.Minute)
}

func (n *node) reboot() {
	n.Helper()
	n.ctrd.lose()
	n.boot()
}

// state is the unit's.
func (n *node) state() systemd.Unit {
	n.Helper()
	u, err := n.sys.Unit(context.Background(), unitName)
	if err != nil {
		n.Fatal(err)
	}
	return u
}

// healthy tells what is wrong with containerd and what depends on it; empty if nothing is.
func (n *node) healthy() string {
	for _, s := range n.others {
		if u, err := n.sys.Unit(context.Background(), s.Name); err != nil || u.ActiveState != "active" {
			return fmt.Sprintf("%s is %s, %v", s.Name, u.ActiveState, err)
		}
	}
	u := n.state()
	if u.ActiveState != "active" || u.SubState != "running" {
		return fmt.Sprintf("containerd is %s/%s, %s", u.ActiveState, u.SubState, u.Result)
	}
	if err := n.ctrd.CheckCRI(context.Background()); err != nil {
		return err.Error()
	}
	return ""
}

// leftovers are what a transaction leaves that has not ended.
func (n *node) leftovers() (left []string) {
	entries, err := os.ReadDir(n.at(stateDir + "/restart"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		switch e.Name() {
		case lockFile, recordFile, poisonFile, originalsFile, bootName + ".service":
		default:
			left = append(left, e.Name())
		}
	}
	if entries, err = os.ReadDir(n.at("/etc/containerd")); err != nil && !os.IsNotExist(err) {
		n.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "config.toml" {
			left = append(left, "/etc/containerd/"+e.Name())
		}
	}
	return append(left, n.sys.Known()...)
}

// containerd is a fake daemon. It is safe for concurrent use.
type containerd struct {
	node *node

	mu     sync.Mutex
	faults map[bool]fault // by whether the configuration names the hosts directory
	text   string         // what the running daemon has read
	since  time.Time      // of its start
	starts int
	tasks  []daemon.Task
	ended  []string // ids of those that end by themselves while the daemon is away
	idle   []string
	odd    daemon.Running // what else is found: Orphans, Strays and Duplicates
	// criTakes is how long after its start CRI works.
	criTakes time.Duration
	blobs    []daemon.Ingest
}

var _ Daemon = (*containerd)(nil)

// isBroken is in a configuration with which containerd does not start, whoever wrote it.
const isBroken = "BROKEN"

func obeys(text string) bool {
	return strings.Contains(text, `"`+hostsDir+`"`) || strings.Contains(text, `'`+hostsDir+`'`)
}

// does is what the configuration that was read does.
func (c *containerd) does() fault {
	if strings.Contains(c.text, isBroken) {
		return doesNotStart
	}
	return c.faults[obeys(c.text)]
}

func (c *containerd) start() systemdtest.Outcome {
	data, err := os.ReadFile(c.node.at(usualConfig))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return systemdtest.Exit
	}
	kill := c.node.state().KillMode
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text, c.since = string(data), time.Now()
	c.starts++
	if kill != "process" {
		c.tasks = nil
	}
	if len(c.ended) > 0 {
		c.tasks = slices.DeleteFunc(slices.Clone(c.tasks), func(t daemon.Task) bool { return slices.Contains(c.ended, t.ID) })
	}
	switch c.does() {
	case doesNotStart:
		return systemdtest.Exit
	case hangs:
		return systemdtest.Hang
	case loses:
		c.tasks = nil
	case dies:
		time.AfterFunc(startTakes+time.Second, c.node.kill)
	}
	return systemdtest.Run
}

// kill kills containerd as the kernel does when memory is short.
func (n *node) kill() {
	u, err := n.sys.Unit(context.Background(), unitName)
	if err != nil || u.MainPID == 0 {
		return // the test is over, or it is dead already
	}
	_, _ = n.sys.RunOnHost(context.Background(), systemd.Command{Name: "kill", Argv: []string{"/bin/kill", "-9", fmt.Sprint(u.MainPID)}})
}

// lose ends all containers.
func (c *containerd) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks = nil
}

func (c *containerd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts
}

var errAway = errors.New("connection refused")

// up returns an error unless the daemon answers.
func (c *containerd) up() error {
	u, err := c.node.sys.Unit(context.Background(), unitName)
	if err != nil || u.ActiveState != "active" {
		return errAway
	}
	return nil
}

func (c *containerd) Info(context.Context) (daemon.Info, error) {
	if err := c.up(); err != nil {
		return daemon.Info{}, err
	}
	return daemon.Info{Version: version, PID: c.node.state().MainPID}, nil
}

func (c *containerd) CheckCRI(context.Context) error {
	if err := c.up(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	takes := c.node.unit.StartTakes + c.criTakes
	switch c.does() {
	case criDown:
		return errors.New("plugin io.containerd.grpc.v1.cri did not load: invalid plugin config")
	case slow:
		takes += 5 * time.Second
	}
	if time.Since(c.since) < takes {
		return errors.New("server is not initialized yet")
	}
	return nil
}

func (c *containerd) Running(context.Context) (daemon.Running, error) {
	if err := c.up(); err != nil {
		return daemon.Running{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := daemon.Running{Tasks: c.tasks, Idle: c.idle, Started: map[string]int64{},
		Orphans: c.odd.Orphans, Strays: c.odd.Strays, Duplicates: c.odd.Duplicates}
	for _, t := range c.tasks {
		r.Started[t.ID] = 1
	}
	return r, nil
}

func (c *containerd) Lost(_ context.Context, before, now daemon.Running) ([]daemon.Loss, error) {
	if err := c.up(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(before.Changed(now), func(l daemon.Loss) bool { return slices.Contains(c.ended, l.Task.ID) }), nil
}

func (c *containerd) Ingests(context.Context) ([]daemon.Ingest, error) {
	if err := c.up(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blobs, nil
}

func (c *containerd) probe(ctx context.Context) (probe.Verdict, error) {
	if err := c.CheckCRI(ctx); err != nil {
		return probe.Verdict{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if obeys(c.text) && c.does() != ignores {
		return probe.Verdict{Live: true, UserAgent: "containerd/" + version}, nil
	}
	return probe.Verdict{Cause: "no such host"}, nil
}

// program is containerd as a program: config dump, which prints what it has read.
func (c *containerd) program(_ context.Context, cmd systemd.Command) systemd.Result {
	if cmd.Argv[1] != "--config" {
		return systemd.Result{Stdout: []byte("containerd github.com/containerd/containerd/v2 " + version + " 0123456\n")}
	}
	file := cmd.Argv[2]
	for _, b := range cmd.Binds {
		if b.Target == file {
			file = b.Source
		}
	}
	data, err := os.ReadFile(c.node.at(file))
	if err != nil || strings.Contains(string(data), isBroken) {
		return systemd.Result{ExitCode: 1, Stderr: []byte("level=warning msg=\"" + secret + "\"\n" +
			"containerd: failed to unmarshal TOML: (2, 1): Can't convert " + secret + "(string) to int\npassword = '" + secret + "'\n")}
	}
	return systemd.Result{Stdout: data}
}

// set changes what a configuration does.
func (c *containerd) set(isNew bool, f fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[isNew] = f
}

// containerdProgram is a binary of another version.
func containerdProgram(version string) systemdtest.Program {
	return func(context.Context, systemd.Command) systemd.Result {
		return systemd.Result{Stdout: []byte("containerd github.com/containerd/containerd/v2 " + version + "\n")}
	}
}

// missingProgram is what systemd says of a program that is not there.
func missingProgram(context.Context, systemd.Command) systemd.Result {
	return systemd.Result{ExitCode: 203}
}
