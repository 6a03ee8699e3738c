//go:build e2e

package e2e

import (
	"testing"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// slowly limits every connection, so that something can happen in the middle of a pull.
func slowly() script { return always(isBlob, rig.Fault{BytesPerSecond: 512 << 10}) }

// sent is how many bytes of blobs the site has sent.
func (s *site) sent() (n int64) {
	for _, r := range s.Requests() {
		n += r.Sent
	}
	return n
}

func TestCrashInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, what string
		crash      func(t *testing.T, n *node)
	}{
		{"agent killed", "agent: killed with SIGKILL in the middle of a pull, three times", func(_ *testing.T, n *node) {
			for _, at := range []int64{1 << 19, 2 << 20, 3 << 20} {
				n.until(fetched(at))
				n.kill()
				n.start()
			}
		}},
		{"agent ended", "agent: ended with SIGTERM in the middle of a pull", func(_ *testing.T, n *node) {
			n.until(fetched(2 << 20))
			n.stop()
			n.start()
		}},
		{"containerd restarted", "agent: containerd restarted in the middle of a pull", func(t *testing.T, n *node) {
			n.until(fetched(2 << 20))
			n.pid = 0
			if err := n.containerd.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"containerd killed", "agent: containerd killed in the middle of a pull, and away for a while", func(t *testing.T, n *node) {
			n.until(fetched(2 << 20))
			n.pid = 0
			if err := n.containerd.Kill(); err != nil {
				t.Fatal(err)
			}
			n.until(notReady, condition(report.ContainerdHealthy, report.False))
			if err := n.containerd.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"everything killed", "agent: agent and containerd killed in the middle of a pull", func(t *testing.T, n *node) {
			n.until(fetched(2 << 20))
			n.pid = 0
			n.kill()
			if err := n.containerd.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := n.containerd.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.start()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row := shows(t, newest, tt.what)
			mirror := newMirror(t)
			img := mirror.push(t, model())
			mirror.SetScript(slowly())
			n := newNode(t, newest, nil)
			n.writeConfig(n.wanting(img, mirror))
			n.start()
			tt.crash(t, n)
			mirror.SetScript(nil)
			n.until(ready, imageIs("model", report.ImageReady))
			row.saw("Ready; %s sent in all", report.Bytes(mirror.sent()))
			n.checkImage(mirror, img, allNames(img)...)
			row.saw("no lease and no ingest left")
		})
	}
}

func TestImageLeavesTheConfigInTheMiddle(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent: an image leaves the config in the middle of its pull: nothing of it stays")
	mirror := newMirror(t)
	img := mirror.push(t, model())
	mirror.SetScript(slowly())
	n := newNode(t, newest, nil)
	c := n.wanting(img, mirror)
	n.writeConfig(c)
	n.start()
	n.until(fetched(1 << 20))
	c.Images = nil
	n.configure(c)
	n.until(ready)
	n.checkLeftovers()
	n.checkAbsent(allNames(img)...)
	row.saw("no image, no lease, no ingest")
}

func TestHostsDirectoryAfterKills(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent killed while it writes the hosts directory: the next start finishes, and uninstall undoes all")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		n.foreign(map[string]string{"unrelated.invalid/hosts.toml": otherTool})
		before := tree(t, n.hosts())
		c := n.config(mirrored, "Deny", mirror)
		const kills = 10
		for i := range kills {
			// Each start has something new to write, and ends at another moment of it.
			c.Registries[0].Mirrors[0].Headers = map[string][]string{"X-Run": {string(rune('a' + i))}}
			n.writeConfig(c)
			n.launch()
			pollUntilLog(n, i)
			n.kill()
		}
		n.start()
		n.until(ready)
		n.waitApplied()
		img := mirror.push(t, small())
		n.mustPull(img.under(mirrored), img)
		n.stop()
		n.uninstall()
		sameTree(t, before, tree(t, n.hosts()))
		row.saw("%d kills; then Ready, and after uninstall the tree as before", kills)
	})
}

// pollUntilLog returns a moment after the agent has begun to work, another one for each i.
func pollUntilLog(n *node, i int) {
	n.t.Helper()
	marks := []string{"hotplate-agent starts", "config in force", "hosts directory changed", "HostsLive", "mirror"}
	size := len(n.log())
	waitFor(n.t, "the agent's log to go on", func() string {
		log := n.log()
		if len(log) > size && contains(log[size:], marks[i%len(marks)]) {
			return ""
		}
		return "it does not say " + marks[i%len(marks)]
	})
}

func TestImageRemovedBehindTheAgent(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent: an image that somebody removes or unpins is made ready again")
	mirror := newMirror(t)
	img := mirror.push(t, model())
	n := newNode(t, newest, nil)
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	n.until(ready, imageIs("model", report.ImageReady))
	if err := n.cri.RemoveImage(t.Context(), img.id); err != nil {
		t.Fatal(err)
	}
	n.checkAbsent(allNames(img)...)
	n.waitPinned(img)
	n.until(ready, imageIs("model", report.ImageReady))
	n.checkImage(mirror, img, allNames(img)...)
	row.saw("removed by CRI: Ready again")

	n.setPin(img, "")
	n.untilPinnedAgain(img)
	row.saw("pin taken off: pinned again")
}

// waitPinned waits until CRI says that an image is pinned.
func (n *node) waitPinned(img image) {
	n.t.Helper()
	waitFor(n.t, "the image to be there and pinned", func() string {
		status, err := n.cri.ImageStatus(n.t.Context(), img.under(aliased))
		if err != nil || !status.GetPinned() {
			return "CRI has it not, or not pinned"
		}
		return ""
	})
}
