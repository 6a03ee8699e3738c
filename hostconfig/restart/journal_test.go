package restart

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

const (
	journalPath = stateDir + "/restart/" + journalFile
	configWrite = "write " + usualConfig
)

// wait lets the rescue have its time.
func (n *node) wait() {
	n.Helper()
	time.Sleep(n.newAgent().r.after() + time.Minute)
}

func TestDamagedJournal(t *testing.T) {
	flip := func(data []byte) []byte { // one bit of the old configuration
		var j journal
		if err := json.Unmarshal(data, &j); err != nil {
			t.Fatal(err)
		}
		j.Old[len(j.Old)/2] ^= 1
		damaged, err := json.Marshal(&j)
		if err != nil {
			t.Fatal(err)
		}
		return damaged
	}
	for name, damage := range map[string]func([]byte) []byte{
		"empty":                     func([]byte) []byte { return nil },
		"cut short":                 func(data []byte) []byte { return data[:len(data)/2] },
		"an empty object":           func([]byte) []byte { return []byte("{}") },
		"null":                      func([]byte) []byte { return []byte("null") },
		"old configuration damaged": flip,
		"an unknown phase":          func(data []byte) []byte { return bytes.Replace(data, []byte(`"restarting"`), []byte(`"later"`), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, with(doesNotStart))
				n.runTo("Restart ")
				n.write(journalPath, string(damage([]byte(n.read(journalPath)))))
				for range 2 { // it stays so
					res := n.run()
					if res.err == nil {
						t.Fatalf("no error: %v", res)
					}
					for _, part := range []string{journalPath, "hotplate-rescue-", "remove the file"} {
						if !strings.Contains(res.err.Error(), part) {
							t.Errorf("the error does not say %q: %v", part, res.err)
						}
					}
				}
				n.wait()
				if bad := n.healthy(); bad != "" {
					t.Error(bad)
				}
				if n.read(usualConfig) != oldConfig {
					t.Error("the rescue was lost")
				}
			})
		})
	}
}

// TestDamagedBackup shows what the documentation says: nothing is put back that is damaged, and the journal has all once more.
func TestDamagedBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(criDown))
		n.runTo("Restart ")
		n.write(stateDir+"/restart/"+backupFile, oldConfig[1:])
		n.write(systemd.RestoreTemp(usualConfig), oldConfig[1:])
		n.wait()
		if !obeys(n.read(usualConfig)) {
			t.Error("a damaged backup was put back")
		}
		if res := n.run(); res.err != nil || res.Kind != RolledBack || res.Rescued {
			t.Errorf("%v, rescued: %v", res, res.Rescued)
		}
		if bad := n.healthy(); bad != "" || n.read(usualConfig) != oldConfig {
			t.Errorf("the old configuration is not in force: %s", bad)
		}
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestOneOfTwoBackups has one of them damaged, or gone: the other one will do.
func TestOneOfTwoBackups(t *testing.T) {
	ready := systemd.RestoreTemp(usualConfig)
	for name, damage := range map[string]func(*node) error{
		"ours is damaged":   func(n *node) error { n.write(stateDir+"/restart/"+backupFile, "x"); return nil },
		"the other is gone": func(n *node) error { return os.Remove(n.at(ready)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, with(criDown))
				n.runTo("Restart ")
				if err := damage(n); err != nil {
					t.Fatal(err)
				}
				n.wait()
				if bad := n.healthy(); bad != "" || n.read(usualConfig) != oldConfig {
					t.Errorf("the old configuration is not in force: %s", bad)
				}
				if res := n.run(); res.err != nil || res.Kind != RolledBack || !res.Rescued {
					t.Errorf("%v, rescued: %v", res, res.Rescued)
				}
			})
		})
	}
}

// TestBackupIsReadBack damages a backup as soon as it is written.
func TestBackupIsReadBack(t *testing.T) {
	for _, file := range []string{stateDir + "/restart/" + backupFile, systemd.RestoreTemp(usualConfig)} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			a := n.newAgent()
			a.name = "write " + file
			a.after = func() error { n.write(file, "x"); return nil }
			starts := n.ctrd.count()
			if res := a.run(); res.Kind != Abandoned || !strings.Contains(res.Reason, "the disk is damaged") {
				t.Error(res)
			}
			n.untouched(starts)
		})
	}
}

func TestOnlyRootReadsWhatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.cfg = func(*Config) {}
		a := n.newAgent()
		a.r.files = osFiles{} // as it really is
		done := make(chan result)
		go func() {
			o, err := a.r.Run(t.Context())
			done <- result{Outcome: o, err: err}
		}()
		time.Sleep(time.Second) // it watches containerd
		synctest.Wait()
		for file, want := range map[string]os.FileMode{
			stateDir + "/restart": 0o700 | os.ModeDir, journalPath: 0o600, stateDir + "/restart/" + backupFile: 0o600,
		} {
			info, err := os.Stat(n.at(file))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != want {
				t.Errorf("%s has mode %s, not %s", file, info.Mode(), want)
			}
		}
		if res := <-done; res.Kind != Restarted {
			t.Error(res)
		}
		if info, err := os.Stat(n.at(usualConfig)); err != nil || info.Mode() != 0o600 {
			t.Errorf("the configuration has mode %s, %v", info.Mode(), err)
		}
	})
}

func TestRecordsAndRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		r := n.newAgent().r
		if err := os.MkdirAll(n.at(stateDir+"/restart"), 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range 2 * maxRecords {
			time.Sleep(time.Second)
			j := &journal{NewSum: fmt.Sprint(i), File: usualConfig, Version: version}
			r.record(j, Outcome{Kind: RolledBack, Reason: fmt.Sprint(i)})
			if err := r.addPoison(j, "it was bad"); err != nil {
				t.Fatal(err)
			}
		}
		records, err := r.Records()
		if err != nil || len(records) != maxRecords || records[0].Reason != fmt.Sprint(2*maxRecords-1) {
			t.Errorf("%d records, the newest %v, %v", len(records), records[0], err)
		}
		refused := func(i int, file, version string) bool {
			why, err := r.poisoned(&journal{NewSum: fmt.Sprint(i), File: file, Version: version})
			if err != nil {
				t.Fatal(err)
			}
			return why != ""
		}
		for i := range 2 * maxRecords {
			if got, want := refused(i, usualConfig, version), i >= maxRecords; got != want {
				t.Errorf("configuration %d is refused: %v", i, got)
			}
		}
		last := 2*maxRecords - 1
		if refused(last, "/etc/other.toml", version) || refused(last, usualConfig, "2.4.3") {
			t.Error("another file or another containerd is refused too")
		}
		if err := r.Forgive(); err != nil || refused(last, usualConfig, version) {
			t.Errorf("not forgiven: %v", err)
		}
	})
}

// TestDamagedRefusals shows that a configuration is rather not tried than tried again, and that --again helps.
func TestDamagedRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		if res := n.run(); res.Kind != RolledBack {
			t.Fatal(res)
		}
		time.Sleep(time.Hour)
		n.write(stateDir+"/restart/"+poisonFile, "{")
		starts := n.ctrd.count()
		res := n.run()
		if res.err == nil || !strings.Contains(res.err.Error(), poisonFile) || !strings.Contains(res.err.Error(), "--again") {
			t.Errorf("%v", res)
		}
		if n.ctrd.count() != starts {
			t.Error("it was tried again")
		}
		if err := n.newAgent().r.Forgive(); err != nil {
			t.Fatal(err)
		}
		if res := n.run(); res.Kind != RolledBack {
			t.Errorf("after it was forgiven: %v", res)
		}
		n.write(stateDir+"/restart/"+recordFile, "{")
		if _, err := n.newAgent().r.Records(); err == nil || !strings.Contains(err.Error(), recordFile) {
			t.Errorf("damaged records: %v", err)
		}
	})
}

// TestOldMarkMeansNothing kills an agent at the very end of one transaction that was taken back by the boot unit, and reboots
// the node again in the middle of the next.
func TestOldMarkMeansNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runTo(configWrite)
		n.reboot()
		if !n.has(systemd.Restored(stateDir + "/restart/" + markerFile)) {
			t.Fatal("the boot unit has not acted")
		}
		a := n.newAgent()
		a.name, a.before = "remove "+systemd.Restored(stateDir+"/restart/"+markerFile), func() error { return errFault }
		if res := a.run(); res.err != nil || res.Kind != RolledBack || !res.Rescued {
			t.Fatalf("%v, rescued: %v", res, res.Rescued)
		}
		if err := n.newAgent().r.Forgive(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		a = n.newAgent()
		a.name, a.before = configWrite, a.kill
		a.run()
		n.reboot()
		if res := n.run(); res.err != nil || res.Kind != Abandoned {
			t.Errorf("%v", res)
		}
		time.Sleep(time.Hour)
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}

// TestRebootedIsNotRestarted shows that a node that healed itself at boot needs no further restart.
func TestRebootedIsNotRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		n.runTo(configWrite)
		n.reboot()
		starts := n.ctrd.count()
		if res := n.run(); res.Kind != RolledBack || !res.Rescued || res.Downtime != 0 {
			t.Errorf("%v, rescued: %v, downtime %s", res, res.Rescued, res.Downtime)
		}
		if n.ctrd.count() != starts {
			t.Error("containerd was restarted")
		}
	})
}

// TestWhatSomebodyElseWroteIsKept shows it for each way in which it is replaced.
func TestWhatSomebodyElseWroteIsKept(t *testing.T) {
	const theirs = "# by somebody else, but " + isBroken + "\n"
	kept := func(n *node) (all []string) {
		for _, name := range n.leftovers() {
			if strings.HasPrefix(name, "foreign-") {
				all = append(all, n.read(stateDir+"/restart/"+name))
			}
		}
		return all
	}
	for name, after := range map[string]func(n *node){
		"by the agent":  func(*node) {},
		"by the rescue": func(n *node) { n.wait() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.runTo("Restart ")
				n.write(usualConfig, theirs)
				go n.restart()
				time.Sleep(time.Minute)
				after(n)
				if res := n.run(); res.err != nil {
					t.Errorf("%v", res)
				}
				if bad := n.healthy(); bad != "" || n.read(usualConfig) != oldConfig {
					t.Errorf("the old configuration is not in force: %s", bad)
				}
				if all := kept(n); len(all) != 1 || all[0] != theirs {
					t.Errorf("kept: %q", all)
				}
				if !strings.Contains(n.log.String(), "foreign-") {
					t.Error("nobody is told")
				}
			})
		})
	}
	t.Run("ours is no one's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, with(doesNotStart))
			n.runTo("Restart ")
			n.wait()
			if res := n.run(); res.Kind != RolledBack || !res.Rescued {
				t.Errorf("%v", res)
			}
			if left := n.leftovers(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	})
}

// TestBothBad shows that hotplate gives up once, says so, and sees when somebody has mended it.
func TestBothBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		a := n.newAgent()
		a.name = "Restart "
		a.before = func() error { n.ctrd.set(false, doesNotStart); return nil }
		res := a.run()
		if res.err != nil || res.Kind != Failed || !strings.Contains(res.Reason, "journalctl -u containerd.service") {
			t.Fatal(res)
		}
		const byHand = oldConfig + "# mended by hand\n"
		n.write(usualConfig, byHand)
		for range 3 {
			time.Sleep(time.Hour)
			starts := n.ctrd.count()
			if res := n.run(); res.Kind != Failed || !strings.Contains(res.Reason, "journalctl -u containerd.service") {
				t.Error(res)
			}
			if n.ctrd.count() != starts || n.read(usualConfig) != byHand {
				t.Error("it was touched again")
			}
		}
		n.ctrd.set(false, good)
		n.write(usualConfig, oldConfig)
		n.restart()
		time.Sleep(time.Minute)
		if res := n.run(); res.err != nil || res.Kind != RolledBack || !strings.Contains(res.Reason, "works again") {
			t.Error(res)
		}
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		time.Sleep(time.Hour)
		if res := n.run(); res.Kind != Refused {
			t.Error(res)
		}
		records, err := a.r.Records()
		if err != nil || len(records) != 2 || records[1].Kind != Failed {
			t.Errorf("records: %v, %v", records, err)
		}
	})
}

// TestBothBadAndStillArmed shows that who is about to mend it is told of a rescue that will come.
func TestBothBadAndStillArmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		n.ctrd.set(false, doesNotStart)
		a := n.newAgent()
		a.name = "Disarm"
		a.before = func() error { return errors.New("the bus is away") }
		res := a.run()
		if res.err != nil || res.Kind != Failed || !strings.Contains(res.Reason, "Edit "+usualConfig+" after ") {
			t.Error(res)
		}
	})
}
