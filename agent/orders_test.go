package agent

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	digests "github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

func TestANodeHoldsWhatTheCoordinatorSays(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		hash := n.source.write(doc)
		n.says(directive(hash, "a", "b"))
		after(soon)
		n.holds("a Ready", "b Ready")
		r := n.Report()
		if img := r.Images[0]; img.Ref != "quay.io/a:v1" || img.Target != meaning("a") || !img.Pinned || !r.Ready || r.Config.Hash != hash {
			t.Errorf("ready %v, hash %s, image %+v", r.Ready, r.Config.Hash, img)
		}
		if got := n.log.Lines("the coordinator answers", "configHash="+hash, "images=2"); len(got) != 1 {
			t.Errorf("the log says %q", n.log.Lines(""))
		}
		n.puller.Took()
		for range 10 {
			n.says(directive(hash, "a", "b")) // nothing new
			after(time.Second)
		}
		if got := n.puller.Took(); len(got) != 0 {
			t.Errorf("an answer that says nothing new lets the node do %q", got)
		}
		n.says(directive(hash, "b"))
		after(soon)
		n.holds("b Ready")
	})
}

// Without any word of the coordinator the hosts are configured, and images wait; what was pinned before stays so.
func TestImagesWaitForTheFirstWord(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		pin := prefetch.Pin{ImageID: digests.FromString("before")}
		n.puller.Set(func(s *agenttest.State) { s.Pinned = []prefetch.Pin{pin} })
		n.run()
		hash := n.source.write(strings.ReplaceAll(twoImages, `qwen:v1"`, `qwen:v1", nodeSelector: {gpu: a}`))
		after(firstAnswer - time.Second)
		if n.Report().Config.Hash != "" {
			t.Error("it has not waited for the coordinator, which may have released the node")
		}
		after(time.Hour)
		n.expect(report.RegistriesConfigured, "True", "Applied")
		n.expect(report.HostsLive, "True", "Live")
		n.expect(report.ImagesReady, "Unknown", "WaitsForCoordinator", "waits for the coordinator to say")
		n.holds("llama Pending") // the other one may not be for this node
		if code, body := scrape(t, n.httpHandler(), "/readyz"); code != http.StatusOK {
			t.Errorf("/readyz says %d %s", code, body)
		}
		for _, did := range n.puller.Took() {
			if !strings.HasPrefix(did, "check ") {
				t.Errorf("it does %s", did)
			}
		}
		n.says(directive(hash, "a"))
		after(2 * time.Minute)
		n.holds("a Ready")
		if got := n.puller.Took(); !contains(got, "unpin "+pin.ImageID.String()) {
			t.Errorf("what is not wanted stays: %q", got)
		}
	})
}

func contains(all []string, want string) bool {
	for _, s := range all {
		if s == want {
			return true
		}
	}
	return false
}

func TestADirectiveCountsWhenItIsAboutTheConfigInForce(t *testing.T) {
	inCluster(t, func(_ *testing.T, n *node) {
		n.run()
		first := n.source.write(doc)
		n.says(directive(first, "a"))
		after(soon)
		n.holds("a Ready")
		// The node is faster than the coordinator.
		second := n.source.write(twoImages)
		after(soon)
		n.says(directive(first, "a", "b"))
		after(soon)
		n.holds("a Ready")
		n.says(directive(second, "b"))
		after(soon)
		n.holds("b Ready")
		// The coordinator is faster than the node.
		n.says(directive(first, "c"))
		after(soon)
		n.holds("b Ready")
		n.source.write(doc)
		after(soon)
		n.holds("c Ready")
		// A config that is refused changes nothing, be it here or there.
		n.source.write(faulty)
		n.says(directive(first, "d"))
		after(soon)
		n.holds("d Ready")
		n.expect(report.ConfigValid, "False", "Rejected")
	})
}

func TestWhatTheCoordinatorSaidLastSurvives(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		hash := n.source.write(doc)
		d := directive(hash, "a")
		d.Restart, d.NextReport = report.Leave{Granted: true, For: time.Hour}, time.Hour
		d.Throttled = []report.Throttle{{Host: "quay.io", For: time.Hour}}
		n.says(d)
		after(soon)
		path := filepath.Join(n.dir, directiveName)
		before, err := os.Stat(path)
		if err != nil || before.Mode() != 0o600 {
			t.Fatalf("kept as %v, %v", before, err)
		}
		kept, err := loadDirective(path)
		if err != nil {
			t.Fatal(err)
		}
		want := report.Directive{ConfigHash: hash, Images: d.Images, Pull: report.Leave{Granted: true}}
		if diff := cmp.Diff(&want, kept); diff != "" {
			t.Errorf("kept (-want +got):\n%s", diff)
		}
		n.says(d)
		if now, err := os.Stat(path); err != nil || !os.SameFile(before, now) {
			t.Errorf("the same is written again, %v", err)
		}
		n.again()
		n.source.write(doc)
		after(soon)
		n.holds("a Ready") // and nobody was waited for
		n.again()
		n.source.write(twoImages) // changed while no agent ran: until the two agree it is what it was
		after(soon)
		n.holds("a Ready")
		n.expect(report.ImagesReady, "True", "AllReady")
		if err := errors.Join(n.stop(), os.WriteFile(path, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := New(n.cfg); err == nil || !strings.Contains(err.Error(), "remove "+path) {
			t.Errorf("a file that is not whole: %v", err)
		}
		if err := Forget(n.dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("it is not forgotten")
		}
	})
}

func TestTheLeaveToPull(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		hash := n.source.write(doc)
		d := directive(hash, "a")
		d.Pull = report.Leave{Reason: "it is the turn of others"}
		n.says(d)
		after(time.Minute)
		n.holds("a Pending")
		if img := n.Report().Images[0]; img.Reason != report.WaitsForTurn || img.Message != "it is the turn of others" {
			t.Errorf("reported as %+v", img)
		}
		if got := n.coordinator.wokenBy(func() {
			for _, reason := range []string{"1 before it", "2 before it", "3 before it"} {
				d.Pull.Reason = reason
				n.says(d)
			}
		}); got != 0 {
			t.Errorf("other words for the same are reported %d times", got)
		}
		n.again() // it has no leave from before either
		n.source.write(doc)
		after(time.Minute)
		n.holds("a Pending")
		n.says(directive(hash, "a"))
		after(soon)
		n.holds("a Ready")
		for _, line := range []string{"images that are not here wait", "images may be pulled"} {
			if got := n.log.Lines(line); len(got) == 0 || len(got) > 2 {
				t.Errorf("%q is told %d times", line, len(got))
			}
		}
	})
}

func TestAnImageWhoseTagMeansNothingYetWaits(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		hash := n.source.write(doc)
		d := directive(hash, "a", "b")
		d.Images[0].Digest, d.Images[1].Digest = "", "latest"
		n.says(d)
		after(time.Minute)
		n.holds("a Pending", "b Pending")
		if img := n.Report().Images[0]; img.Reason != report.WaitsForCoordinator || img.Message != waitsForDigest {
			t.Errorf("reported as %+v", img)
		}
		n.says(directive(hash, "a", "b"))
		after(soon)
		n.holds("a Ready", "b Ready")
	})
}

func TestHostsThatWantToBeLeftAloneAreToldBothWays(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		d := directive(n.source.write(doc), "a")
		d.Throttled = []report.Throttle{{Host: "quay.io", For: time.Minute}}
		n.says(d)
		after(soon)
		n.puller.Set(func(s *agenttest.State) {
			if s.Told["quay.io"] <= 0 {
				t.Errorf("told are %v", s.Told)
			}
			s.Throttles = map[string]time.Duration{"b": time.Second, "a": time.Minute}
		})
		want := []report.Throttle{{Host: "a", For: time.Minute}, {Host: "b", For: time.Second}}
		if diff := cmp.Diff(want, n.Report().Throttled); diff != "" {
			t.Errorf("throttled (-want +got):\n%s", diff)
		}
	})
}

func TestChangesAreReportedAtOnce(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.puller.Takes = time.Hour
		n.run()
		hash := n.source.write(doc)
		for _, step := range []struct {
			what string
			do   func()
		}{
			{"an image begins", func() { n.says(directive(hash, "a")); after(soon) }},
			{"containerd is away", func() { n.daemon.set(func(d *fakeDaemon) { d.err = errAway }); after(time.Minute) }},
			{"containerd is back", func() { n.daemon.set(func(d *fakeDaemon) { d.err = nil }); after(time.Minute) }},
			{"an image is Ready", func() { after(time.Hour) }},
			{"another config is in force", func() { n.source.write(twoImages); after(soon) }},
		} {
			if n.coordinator.wokenBy(step.do) == 0 {
				t.Errorf("%s: it is not reported", step.what)
			}
		}
		if got := n.coordinator.wokenBy(func() { after(time.Hour) }); got != 0 {
			t.Errorf("a node that rests reports %d changes", got)
		}
	})
}

// What is said to a coordinator is heard by nobody on a machine by itself.
func TestWithoutACoordinatorTheConfigSaysAll(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc + `- {name: qwen, ref: "` + qwen + `", nodeSelector: {gpu: a}}` + "\n")
		after(soon)
		n.holds("llama Ready", "qwen Ready")
		if got := n.log.Lines("level=WARN", "image qwen: its nodeSelector is for the coordinator of a cluster"); len(got) != 1 {
			t.Errorf("the log says %q", n.log.Lines("WARN"))
		}
		if r := n.Report(); r.Restart.Slot != report.SlotNone || r.Throttled != nil {
			t.Errorf("reported as %+v", r)
		}
	})
}

func TestTheCoordinatorMayReleaseTheNode(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.run()
		hash := n.source.write(doc)
		n.says(directive(hash, "a"))
		after(soon)
		n.says(report.Directive{ConfigHash: hash, Release: true})
		synctest.Wait()
		if err := <-n.ended; !errors.Is(err, ErrRelease) {
			t.Errorf("Run ended with %v", err)
		}
		n.cancel()
		n.cancel = nil
		if err := Forget(n.dir); err != nil {
			t.Fatal(err)
		}
		n.host.made = nil
		n.start() // the pod was killed meanwhile
		n.run()
		n.source.write(doc)
		synctest.Wait()
		n.says(report.Directive{ConfigHash: hash, Release: true})
		if err := <-n.ended; !errors.Is(err, ErrRelease) || len(n.host.calls()) != 0 {
			t.Errorf("Run ended with %v, and the hosts directory was written %d times", err, len(n.host.calls()))
		}
		n.cancel()
		n.cancel = nil
	})
}
