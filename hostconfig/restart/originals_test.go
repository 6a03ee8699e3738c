package restart

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUninstallPutsTheConfigurationBack(t *testing.T) {
	for name, row := range map[string]struct {
		old  string
		then func(n *node) // after the restart
		want string
		left bool
	}{
		"as it was": {old: oldConfig, want: oldConfig},
		"after two of our changes": {old: oldConfig, then: func(n *node) {
			const next = "version = 3\n# ours, later\n"
			is := n.read(usualConfig)
			j := &journal{File: usualConfig, Old: []byte(is), OldSum: sum([]byte(is)), NewSum: sum([]byte(next))}
			for range 2 { // as after a crash
				if err := n.newAgent().r.addOriginal(j); err != nil {
					n.Fatal(err)
				}
			}
			n.write(usualConfig, next)
		}, want: oldConfig},
		"where there was none":      {},
		"removed by somebody":       {old: oldConfig, then: func(n *node) { os.Remove(n.at(usualConfig)) }},
		"put back by somebody":      {old: oldConfig, then: func(n *node) { n.write(usualConfig, oldConfig) }, want: oldConfig},
		"changed by somebody since": {old: oldConfig, then: func(n *node) { n.write(usualConfig, "# mine\n") }, want: "# mine\n", left: true},
		"changed by somebody in between": {old: oldConfig, then: func(n *node) {
			n.write(usualConfig, "version = 3\n# mine\n")
			n.sys.Restart(n.Context(), unitName) //nolint:errcheck // what follows tells
			time.Sleep(time.Minute)
			n.restarted()
		}, want: "version = 3\n# mine\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, func(n *node) { n.old = row.old })
				n.restarted()
				if n.read(usualConfig) == row.old {
					t.Fatal("the configuration is not changed")
				}
				if row.then != nil {
					row.then(n)
				}
				starts := n.ctrd.count()
				done, err := n.newAgent().r.Uninstall(t.Context())
				if err != nil || len(done.Left) > 0 != row.left {
					t.Errorf("%+v, %v", done, err)
				}
				if got := n.read(usualConfig); got != row.want || n.has(usualConfig) != (row.want != "") {
					t.Errorf("the configuration is now:\n%s", got)
				}
				if n.ctrd.count() != starts {
					t.Error("containerd was restarted")
				}
				if row.left {
					const kept = stateDir + "/restart/original-etc-containerd-config.toml"
					if n.read(kept) != row.old || !strings.Contains(done.Left[0].Reason, kept) {
						t.Errorf("what it was before is not kept, or not told: %+v", done.Left)
					}
					os.Remove(n.at(kept))
				}
				n.uninstalled()
			})
		})
	}
}

// restarted restarts containerd for the hosts directory, and sees that it was necessary.
func (n *node) restarted() {
	n.Helper()
	if res := n.run(); res.Kind != Restarted {
		n.Fatal(res)
	}
}

func TestOriginalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newNode(t).newAgent().r
		if err := os.MkdirAll(r.here(r.state("")), 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range maxRecords {
			if err := r.addOriginal(&journal{File: fmt.Sprint("/etc/", i), NewSum: "new"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.addOriginal(&journal{File: "/etc/more", NewSum: "new"}); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("one more: %v", err)
		}
		if err := r.addOriginal(&journal{File: "/etc/0", NewSum: "newer"}); err != nil {
			t.Errorf("one that is known: %v", err)
		}
	})
}

// TestUninstallWhereAChangeLedToTheSameBytes: what a person wrote in between is what was there before hotplate.
func TestUninstallWhereAChangeLedToTheSameBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, func(n *node) { n.old = oldConfig })
		n.restarted()
		first := n.read(usualConfig)
		theirs := strings.ReplaceAll(first, hostsDir, "/etc/vendor")
		n.write(usualConfig, theirs)
		n.sys.Restart(n.Context(), unitName) //nolint:errcheck // what follows tells
		time.Sleep(time.Minute)
		n.restarted()
		if again := n.read(usualConfig); again != first || theirs == first {
			t.Fatalf("the configuration is\n%s\nand was\n%s", again, first)
		}
		if done, err := n.newAgent().r.Uninstall(t.Context()); err != nil || len(done.Left) > 0 {
			t.Errorf("%+v, %v", done, err)
		}
		if got := n.read(usualConfig); got != theirs {
			t.Errorf("the configuration is now:\n%s", got)
		}
	})
}
