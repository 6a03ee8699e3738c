package restart

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

func TestCheckUnit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*systemd.Unit)
		want   Verdict
		says   string
	}{
		"as it should be":      {func(*systemd.Unit) {}, Pass, "spares its containers"},
		"its file is gone":     {func(u *systemd.Unit) { u.LoadState = "not-found" }, Refuse, "not-found"},
		"edited":               {func(u *systemd.Unit) { u.NeedDaemonReload = true }, Refuse, "systemctl daemon-reload"},
		"kills the group":      {func(u *systemd.Unit) { u.KillMode = "control-group" }, Refuse, "KillMode=process"},
		"kills mixed":          {func(u *systemd.Unit) { u.KillMode = "mixed" }, Refuse, "KillMode=process"},
		"does not delegate":    {func(u *systemd.Unit) { u.Delegate = false }, Refuse, "Delegate=yes"},
		"does not notify":      {func(u *systemd.Unit) { u.Type = "simple" }, Refuse, "Type=notify"},
		"has a watchdog":       {func(u *systemd.Unit) { u.Watchdog = time.Minute }, Refuse, "WatchdogSec"},
		"has an endless one":   {func(u *systemd.Unit) { u.Watchdog = systemd.Forever }, Pass, ""},
		"few starts":           {func(u *systemd.Unit) { u.StartLimitBurst = 2 }, Refuse, "StartLimitBurst"},
		"few starts, no limit": {func(u *systemd.Unit) { u.StartLimitBurst, u.StartLimitInterval = 1, 0 }, Pass, ""},
		"three starts":         {func(u *systemd.Unit) { u.StartLimitBurst = 3 }, Pass, ""},
		"starts":               {func(u *systemd.Unit) { u.ActiveState, u.SubState = "activating", "start" }, Defer, "activating/start"},
		"reloads":              {func(u *systemd.Unit) { u.ActiveState, u.SubState = "reloading", "reload" }, Defer, "reloading"},
		"has a job":            {func(u *systemd.Unit) { u.Job = 7 }, Defer, "has a job"},
		"young":                {func(u *systemd.Unit) { u.StateChange = time.Now().Add(-9 * time.Second) }, Defer, "must have run for 10s"},
		"young for its limit": {func(u *systemd.Unit) {
			u.StateChange, u.StartLimitInterval = time.Now().Add(-29*time.Second), 30*time.Second
		}, Defer, "must have run for 30s"},
		"old enough for any limit": {func(u *systemd.Unit) {
			u.StateChange, u.StartLimitInterval = time.Now().Add(-time.Minute), systemd.Forever
		}, Pass, ""},
		"from the future":         {func(u *systemd.Unit) { u.StateChange = time.Now().Add(time.Hour) }, Pass, ""},
		"old, and its clock is 0": {func(u *systemd.Unit) { u.StateChange = time.Time{} }, Pass, ""},
		"bad in two ways":         {func(u *systemd.Unit) { u.Job, u.KillMode = 7, "mixed" }, Refuse, "KillMode"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := systemd.Unit{
					Name: unitName, LoadState: "loaded", ActiveState: "active", SubState: "running", KillMode: "process", Delegate: true,
					Type: "notify", StartLimitBurst: 5, StartLimitInterval: 10 * time.Second, StateChange: time.Now().Add(-time.Hour),
				}
				c.change(&u)
				s := &survey{}
				new(Restarter).checkUnit(u, s)
				if got := s.worst(); got != c.want || !strings.Contains(s.reasons(got), c.says) {
					t.Errorf("%s: %v; want %s, %q", got, s.checks, c.want, c.says)
				}
			})
		})
	}
}

func TestConfigOf(t *testing.T) {
	for line, want := range map[string]string{
		"containerd":                                         usualConfig,
		"containerd --config /a.toml":                        "/a.toml",
		"containerd --config=/a.toml":                        "/a.toml",
		"containerd -c /a.toml":                              "/a.toml",
		"containerd -c=/a.toml":                              "/a.toml",
		"containerd --config /a.toml --config /b.toml":       "/b.toml",
		"containerd --log-level debug --config /a.toml":      "/a.toml",
		"containerd -l debug --address /run/c.sock":          usualConfig,
		"containerd --root /r --state /s -a /x -c /a.toml":   "/a.toml",
		"containerd --log-level=debug":                       usualConfig,
		"containerd --config":                                "",
		"containerd --config a.toml":                         "",
		"containerd --config $FILE":                          "",
		"containerd --config /etc/$NAME.toml":                "",
		"containerd --config /etc/%i.toml":                   "",
		"containerd --config=":                               "",
		"containerd $ARGS":                                   "",
		"containerd config dump":                             "",
		"containerd --config /a.toml config default":         "",
		"containerd --log-level debug publish --topic a":     "",
		"containerd --something-new /a.toml":                 "",
		"containerd --something-new=/x --config=/etc/a.toml": "/etc/a.toml",
	} {
		got, ok := configOf(strings.Fields(line))
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s: %q, not %q", line, got, want)
		}
	}
}

func TestShim(t *testing.T) {
	for line, want := range map[string]string{
		"/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id abc -address /run/containerd/containerd.sock":   "k8s.io/abc",
		"containerd-shim-runc-v1 -id abc -namespace moby":                                                       "moby/abc",
		"/opt/kata/bin/containerd-shim-kata-v2 -namespace k8s.io -address /a -publish-binary /b -id abc -debug": "k8s.io/abc",
		"/usr/bin/containerd":                                    "",
		"/usr/bin/containerd-shim-runc-v2":                       "",
		"/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id": "",
		"/usr/bin/containerd-shim-runc-v2 -id abc":               "",
		"runc --root /run/containerd-shim -namespace a -id b":    "",
		"": "",
	} {
		namespace, id, ok := shim(strings.Fields(line))
		got := ""
		if ok {
			got = namespace + "/" + id
		}
		if got != want {
			t.Errorf("%s: %q, not %q", line, got, want)
		}
	}
}

func TestChanged(t *testing.T) {
	task := func(ns, id string, pid uint32) daemon.Task { return daemon.Task{Namespace: ns, ID: id, PID: pid} }
	before := daemon.Running{
		Tasks: []daemon.Task{task("k8s.io", "a", 1), task("k8s.io", "b", 2), task("moby", "a", 3)}, Started: map[string]int64{"a": 10},
	}
	for name, c := range map[string]struct {
		now  daemon.Running
		want []string
	}{
		"all are there":    {before, nil},
		"and another":      {daemon.Running{Tasks: append([]daemon.Task{task("k8s.io", "0", 9)}, before.Tasks...), Started: before.Started}, nil},
		"one is gone":      {daemon.Running{Tasks: before.Tasks[:2], Started: before.Started}, []string{"moby/a (pid 3) is gone"}},
		"another process":  {daemon.Running{Tasks: []daemon.Task{before.Tasks[0], task("k8s.io", "b", 7), before.Tasks[2]}, Started: before.Started}, []string{"k8s.io/b had pid 2 and has 7"}},
		"the pid of other": {daemon.Running{Tasks: []daemon.Task{task("k8s.io", "a", 2), task("k8s.io", "b", 1), before.Tasks[2]}, Started: before.Started}, []string{"k8s.io/a had pid 1 and has 2", "k8s.io/b had pid 2 and has 1"}},
		"started anew":     {daemon.Running{Tasks: before.Tasks, Started: map[string]int64{"a": 11}}, []string{"k8s.io/a was started anew"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range before.Changed(c.now) {
				got = append(got, l.String())
				if gone := strings.HasSuffix(l.String(), "is gone"); l.Gone != gone {
					t.Errorf("%s: gone %v", l, l.Gone)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
		})
	}
	if lost := (daemon.Running{}).Changed(before); len(lost) > 0 {
		t.Errorf("of nothing was lost %v", lost)
	}
}

// TestLastWord has what containerd 1.6.20, 1.7.35 and 2.4.2 say.
func TestLastWord(t *testing.T) {
	for text, want := range map[string]string{
		"":     "it said nothing",
		"\n\n": "it said nothing",
		"containerd: failed to load TOML: /etc/a.toml: (3, 14): no value can start with h\n": "containerd: failed to load TOML: " +
			"/etc/a.toml: (3, 14): no value can start with h",
		"containerd: failed to unmarshal TOML: (2, 1): Can't convert " + secret + "(string) to int\n": "containerd: failed to unmarshal " +
			"TOML: (2, 1): Can't convert …(string) to int",
		"containerd: (3, 3): Can't convert Bearer " + secret + "(string) to []string(slice)\n": "containerd: (3, 3): Can't convert " +
			"…(string) to []string(slice)",
		"containerd: (3, 3): Can't convert a(string) to b\n" + secret + "(string) to int\n": "containerd: (3, 3): Can't convert …(string) to int",
		"containerd: (3, 3): Can't convert " + secret + "\n":                                "containerd: (3, 3): Can't convert …",
		"time=\"2026-11-25\" level=warning msg=\"Configuration migrated from version 2\"\n" +
			"containerd: toml: cannot decode TOML string into []string\n": "containerd: toml: cannot decode TOML string into []string",
		"containerd: toml: bad\n\n5 | password = '" + secret + "'\n": "containerd: toml: bad",
		"containerd: " + strings.Repeat("ä", maxWord):                "containerd: " + strings.Repeat("ä", (maxWord-12)/2) + " …",
		"error while loading shared libraries: libseccomp.so.2\n":    "error while loading shared libraries: libseccomp.so.2",
	} {
		if got := lastWord([]byte(text)); got != want {
			t.Errorf("%q:\n got %q\nwant %q", text, got, want)
		}
	}
}

// TestWhatIsNotDone has one row for each reason not to restart. Nothing is touched then.
func TestWhatIsNotDone(t *testing.T) {
	shimOf := func(id string, pid int) systemd.Process {
		return systemd.Process{PID: pid, Args: []string{"/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", id}}
	}
	for name, c := range map[string]struct {
		change func(*node)
		want   Kind
		says   string
	}{
		"KillMode=mixed": {func(n *node) { n.unit.KillMode = "mixed"; n.sys.Define(n.unit) }, Refused, "KillMode=process"},
		"another unit": {func(n *node) {
			n.sys.Define(systemdtest.Service{Name: "other.service", KillMode: "process", OnStart: func() systemdtest.Outcome { return systemdtest.Run }})
			if _, err := n.sys.Start(n.Context(), "other.service"); err != nil {
				n.Fatal(err)
			}
			time.Sleep(time.Hour)
			n.cfg = func(c *Config) { c.Unit = "other.service" }
		}, Refused, "is not the main process of other.service"},
		"no such unit":    {func(n *node) { n.cfg = func(c *Config) { c.Unit = "nowhere.service" } }, Refused, "belongs to no unit"},
		"an unknown shim": {func(n *node) { n.processes(shimOf("lost", 77)) }, Refused, "the shim with pid 77 is that of k8s.io/lost"},
		"a shim is known": {func(n *node) { n.processes(shimOf("one", 77)) }, Restarted, ""},
		"a young shim": {func(n *node) {
			n.processes(shimOf("young", 77))
			time.AfterFunc(time.Second, func() { n.ctrd.run(daemon.Task{Namespace: "k8s.io", ID: "young", PID: 99}) })
		}, Restarted, ""},
		"a pod comes, then the next": {func(n *node) {
			n.processes(shimOf("first", 77))
			time.AfterFunc(time.Second, func() { n.processes(shimOf("second", 78)) })
		}, Deferred, "k8s.io/second is being created"},
		"a task without a container": {func(n *node) { n.ctrd.odd.Orphans = []daemon.Task{{Namespace: "k8s.io", ID: "o", PID: 7}} }, Refused, "k8s.io/o (pid 7) belongs to no container"},
		"a process in no cgroup":     {func(n *node) { n.ctrd.odd.Strays = []daemon.Task{{Namespace: "k8s.io", ID: "s", PID: 8}} }, Refused, "k8s.io/s (pid 8) has no process in its cgroup"},
		"two pods of one name":       {func(n *node) { n.ctrd.odd.Duplicates = []string{"default/twin (1 and 2)"} }, Refused, "two of pod default/twin"},
		"half begun":                 {func(n *node) { n.ctrd.idle = []string{"half"} }, Deferred, "half"},
		"a pull": {func(n *node) {
			n.ctrd.blobs = []daemon.Ingest{{Ref: "layer-1", Offset: 3, Total: 9, UpdatedAt: time.Now()}}
		}, Deferred, "layer-1 at 3 of 9 bytes"},
		"a pull that has stalled": {func(n *node) {
			n.ctrd.blobs = []daemon.Ingest{{Ref: "layer-1", UpdatedAt: time.Now().Add(-time.Hour)}}
		}, Restarted, ""},
		"a pull of a wrong clock": {func(n *node) {
			n.ctrd.blobs = []daemon.Ingest{{Ref: "layer-1", UpdatedAt: time.Now().Add(1000 * time.Hour)}}
		}, Restarted, ""},
		"a pattern takes what stands beside it": {func(n *node) {
			n.write(usualConfig, "imports = [\"/etc/containerd/*\"]\n"+oldConfig)
		}, Refused, "/etc/containerd/*, which would take"},
		"the configuration does not load": {func(n *node) { n.write(usualConfig, oldConfig+"# "+isBroken+"\n") }, Refused, "mend it first"},
		"it names the directory already": {func(n *node) {
			n.write(usualConfig, "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '"+hostsDir+"'\n")
		}, Refused, "there is nothing to go back to"},
		"another binary":  {func(n *node) { n.sys.Programs[binary] = containerdProgram("2.4.3") }, Refused, "is not the containerd 2.4.2 that runs any more"},
		"a silent binary": {func(n *node) { n.sys.Programs[binary] = containerdProgram("") }, Refused, "is not the containerd 2.4.2 that runs any more"},
		"no binary":       {func(n *node) { delete(n.sys.Programs, binary) }, Refused, "is not the containerd 2.4.2 that runs any more"},
		"no cp":           {func(n *node) { n.sys.Programs["/bin/cp"] = missingProgram }, Refused, "the node has no /bin/cp"},
		"no sha256sum":    {func(n *node) { n.sys.Programs["/usr/bin/sha256sum"] = missingProgram }, Refused, "no /usr/bin/sha256sum"},
		"a state directory that systemd misreads": {func(n *node) {
			n.cfg = func(c *Config) { c.StateDir = "/var/lib/hot$plate" }
			if err := os.MkdirAll(n.at("/var/lib/hot$plate"), 0o700); err != nil {
				n.Fatal(err)
			}
		}, Refused, "systemd could not put the old configuration back"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				c.change(n)
				starts, text := n.ctrd.count(), n.read(usualConfig)
				res := n.run()
				if res.err != nil || res.Kind != c.want || !strings.Contains(res.Reason, c.says) {
					t.Fatalf("%v; want %s, %q", res, c.want, c.says)
				}
				if res.Kind == Restarted {
					return
				}
				if n.ctrd.count() != starts || n.read(usualConfig) != text || n.has(bootFile) || len(n.leftovers()) > 0 {
					t.Errorf("something was touched: %v", n.leftovers())
				}
				if strings.Contains(fmt.Sprint(res, n.log), secret) {
					t.Error("a password is told")
				}
			})
		})
	}
}

// processes are those beside containerd in its group.
func (n *node) processes(all ...systemd.Process) {
	n.unit.Processes = all
	n.sys.Define(n.unit)
}

// run makes a task appear.
func (c *containerd) run(task daemon.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks = append(c.tasks, task)
}

func TestCreated(t *testing.T) {
	none := func(n *node) { n.old = "" }
	noDir := func(n *node) {
		n.old = ""
		if err := os.Remove(n.at("/etc/containerd")); err != nil {
			n.Fatal(err)
		}
	}
	for name, change := range map[string]func(*node){"no file": none, "no directory": noDir} {
		for _, f := range []fault{good, criDown} {
			t.Run(name+", "+string(f), func(t *testing.T) {
				t.Parallel()
				everyOperation(t, func(t *testing.T, at int) (hit string) {
					for _, s := range some(at) {
						hit = killedAt(t, f, at, "after", s, change)
					}
					return hit
				})
			})
		}
	}
}

// TestLinkThatLeadsNowhere as far as we see may lead to a configuration of which containerd needs every line.
func TestLinkThatLeadsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(good))
		if err := errors.Join(os.Remove(n.at(usualConfig)), os.Symlink("/elsewhere/config.toml", n.at(usualConfig))); err != nil {
			t.Fatal(err)
		}
		if res := n.run(); res.err != nil || res.Kind != Refused || !strings.Contains(res.Reason, "is there and cannot be read") {
			t.Errorf("%v", res)
		}
		if _, err := os.Readlink(n.at(usualConfig)); err != nil {
			t.Error(err)
		}
	})
}

// TestSymlink shows that a link stays one, and what it leads to is changed.
func TestSymlink(t *testing.T) {
	for f, want := range map[fault]Kind{good: Restarted, criDown: RolledBack} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, with(f))
			const real = "/etc/real/config.toml"
			if err := errors.Join(os.Mkdir(n.at("/etc/real"), 0o755), os.Rename(n.at(usualConfig), n.at(real)),
				os.Symlink("../real/config.toml", n.at(usualConfig))); err != nil {
				t.Fatal(err)
			}
			res := n.run()
			if res.err != nil || res.Kind != want || res.File != real {
				t.Errorf("%v, file %s", res, res.File)
			}
			if link, err := os.Readlink(n.at(usualConfig)); err != nil || link != "../real/config.toml" {
				t.Errorf("the link leads to %q, %v", link, err)
			}
			if obeys(n.read(real)) != (want == Restarted) {
				t.Errorf("%s holds\n%s", real, n.read(real))
			}
		})
	}
}
