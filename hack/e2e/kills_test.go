//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// SeedVariable repeats the random choices of a run, which are printed.
const SeedVariable = "HOTPLATE_SEED"

// How often a puller is killed over one pull.
const (
	quickKills = 8
	fewKills   = 20
	manyKills  = 200
)

// kills is how often to kill on a line in this run of the tests.
func kills(line string) int {
	switch {
	case !rigtest.Full():
		return quickKills
	case line == newest:
		return manyKills
	}
	return fewKills
}

// newRand returns random choices, and prints how to repeat them.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(SeedVariable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", SeedVariable, err)
		}
	}
	t.Logf("%s=%d", SeedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// puller is a program that pulls one image: the agent, or hotplate pull.
type puller struct {
	name  string
	start func(n *node, img image) *process
	// ready tells whether a run that was not killed has made the image ready.
	ready func(n *node, p *process) bool
	names func(img image) []string
}

func pullers() []puller {
	return []puller{
		{
			name: "agent",
			start: func(n *node, _ image) *process {
				n.launch()
				return n.agent
			},
			ready: func(n *node, _ *process) bool { return n.is(ready, imageIs("model", report.ImageReady)) },
			names: allNames,
		},
		{
			name: "hotplate pull",
			start: func(n *node, img image) *process {
				p, err := launch(filepath.Join(bin, "hotplate"), n.pullArgs(img), n.environ(), n.path("agent.log"))
				if err != nil {
					n.t.Fatal(err)
				}
				return p
			},
			ready: func(n *node, p *process) bool {
				if !p.running() && p.err != nil {
					n.t.Fatalf("hotplate pull ended with %v", p.err)
				}
				return !p.running()
			},
			names: func(img image) []string {
				return []string{img.under(mirrored), mirrored + "/" + img.repo + "@" + img.digest}
			},
		},
	}
}

// chunkSize is that of the config chunky, and of a pull with as many requests at once.
const chunkSize = 1 << 20

// crashImage has layers of which a puller that is killed so often can fetch a chunk or so between two kills, and a last
// one on top, which the test can hold back.
func crashImage(t *testing.T, kills int) v1.Image {
	t.Helper()
	img := odd(t, rig.ModelSpec{
		RawSize: int64(kills) * chunkSize, ShardSize: 7 << 20, GzipLayers: 3, GzipSize: int64(kills) * chunkSize / 8,
	})
	return onTop(t, img, lastLayer(t))
}

func TestPullerKilledAgainAndAgain(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		for _, p := range pullers() {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				killPuller(t, line, way, p)
			})
		}
	})
}

func killPuller(t *testing.T, line string, way config.Way, p puller) {
	count := kills(line)
	row := shows(t, line, fmt.Sprintf("%s, way %s: killed with SIGKILL at random points of one pull, again and again", p.name, way))
	random, mirror := newRand(t), newMirror(t)
	img := mirror.put(t, crashImage(t, count), newName())
	n := newNode(t, line, nil)
	n.way = way
	n.prepare(mirror)
	n.writeConfig(n.wanting(img, mirror))
	mirror.Reset()
	k := &killer{n: n, p: p, img: img, ledger: newLedger(mirror), random: random}

	held := make(chan struct{})
	mirror.SetScript(k.pace(held))
	for left := count; left > 0; left-- {
		k.runInTheMiddle(left)
	}
	close(held)
	more := k.runToTheEnd()
	row.saw("%d kills with the last layer held back, %d after that", count, more)
	k.ledger.check(n, img, row)
	n.stopAgent()
	k.dropProbes()
	n.checkImage(mirror, img, p.names(img)...)
	n.checkSame(newReference(t, line), img)
	n.checkOnly(img)
	row.saw("%d layers as containerd makes them; no lease, snapshot, ingest, file or process left", len(img.layers))
}

// TestKilledWhileNotKept kills an agent that keeps no layers. Those in progress begin anew each time, so that nothing can be
// said of how much is sent; the image comes out right, and nothing is left.
func TestKilledWhileNotKept(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent, keepLayers Never: killed with SIGKILL at random points of one pull, again and again")
		count := min(kills(line), fewKills)
		random, mirror := newRand(t), newMirror(t)
		img := mirror.put(t, crashImage(t, count), newName())
		n := newNode(t, line, nil)
		n.prepare(mirror)
		c := n.wanting(img, mirror)
		c.Prefetch.KeepLayers = config.KeepNever
		n.writeConfig(c)
		mirror.Reset()
		k := &killer{n: n, p: pullers()[0], img: img, ledger: newLedger(mirror), random: random, anew: true}
		held := make(chan struct{})
		mirror.SetScript(k.pace(held))
		for left := count; left > 0; left-- {
			k.runInTheMiddle(left)
		}
		close(held)
		row.saw("%d kills with the last layer held back, %d after that", count, k.runToTheEnd())
		n.stopAgent()
		k.dropProbes()
		n.checkNotKept(mirror, img, line)
		row.saw("%d layers as containerd makes them, and no blob of theirs; nothing else is left", len(img.layers))
	})
}

// killer kills one puller of one image.
type killer struct {
	n      *node
	p      puller
	img    image
	ledger *ledger
	random *rand.Rand
	anew   bool      // a run does not go on where the one before it was killed
	killed time.Time // for the last time
}

// pace is a registry so slow that a kill can hit a chunk in the middle. Its answers end at different times, but none is far
// slower than the others. It answers nothing for the last layer before held is closed.
func (k *killer) pace(held <-chan struct{}) script {
	last := k.img.layers[len(k.img.layers)-1].String()
	var asked atomic.Int64
	return func(r *http.Request) rig.Fault {
		if !isBlob(r) {
			return rig.Fault{}
		}
		f := rig.Fault{BytesPerSecond: (3 + asked.Add(1)%4) << 20}
		if strings.HasSuffix(r.URL.Path, last) {
			f.Hold, f.Release = true, held
		}
		return f
	}
}

// runInTheMiddle starts the puller and kills it at a random point: after some answers, and then some time. So many runs are
// left, this one included, as the rest of the image has to last for.
func (k *killer) runInTheMiddle(left int) {
	k.n.t.Helper()
	rest := max(0, k.img.size-k.ledger.has()) / chunkSize
	if k.anew {
		rest, left = k.img.size/chunkSize, 1
	}
	answers := k.random.IntN(2 + 2*int(rest)/left)
	pause := time.Duration(k.random.IntN(500)) * time.Millisecond
	p := k.p.start(k.n, k.img)
	began := time.Now()
	waitFor(k.n.t, "a point to kill at", func() string {
		if !p.running() {
			k.n.t.Fatalf("the puller ended by itself, with %v:\n%s", p.err, tail(k.n.log()))
		}
		ended := k.ledger.look()
		// What is left may be less than a chunk for each run: then time is the point.
		if ended >= answers || time.Since(began) > 2*time.Second {
			return ""
		}
		return fmt.Sprintf("%d answers of %d", ended, answers)
	})
	k.after(pause, func() bool { return false })
	k.kill(p)
}

// runToTheEnd starts the puller and kills it after ever longer random times, until it is done first, and returns the number
// of kills.
func (k *killer) runToTheEnd() (killed int) {
	k.n.t.Helper()
	for {
		p := k.p.start(k.n, k.img)
		life := time.Duration(k.random.IntN(150*(killed+1))) * time.Millisecond
		done := k.after(life, func() bool { return k.p.ready(k.n, p) })
		if done {
			return killed
		}
		k.kill(p)
		killed++
	}
}

// probeLife is when the next start removes what a look at containerd that was killed has left (prefetch/store, removeProbes).
const probeLife = time.Minute

// dropProbes starts the puller once more if a look at containerd was killed, when the next start is to remove what that left.
func (k *killer) dropProbes() {
	k.n.t.Helper()
	left := func() bool {
		return slices.ContainsFunc(k.n.ownFiles(), func(path string) bool { return strings.Contains(path, "/probe-") })
	}
	if !left() {
		return
	}
	k.after(time.Until(k.killed.Add(probeLife+time.Second)), func() bool { return false })
	p := k.p.start(k.n, k.img)
	waitFor(k.n.t, "the puller to be done once more", func() string {
		if !k.p.ready(k.n, p) || left() {
			return "it is not, or has not removed what was left"
		}
		return ""
	})
	k.n.stopAgent()
}

// after looks at the ledger for a time, or until done says so.
func (k *killer) after(d time.Duration, done func() bool) (isDone bool) {
	k.n.t.Helper()
	until := time.Now().Add(d)
	waitFor(k.n.t, "the time to kill", func() string {
		k.ledger.look()
		if isDone = done(); isDone || time.Now().After(until) {
			return ""
		}
		return "it is too early"
	})
	return isDone
}

func (k *killer) kill(p *process) {
	k.n.t.Helper()
	k.killed = time.Now()
	_ = p.end(syscall.SIGKILL) // it ends with that signal
	checkEnded(k.n.t, p)
	k.ledger.crashed(k.n, k.killed)
}
