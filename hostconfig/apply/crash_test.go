package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// scenario is one change of a host that must survive anything.
type scenario struct {
	// foreign prepares what somebody else has put there before hotplate came.
	foreign func(r *rig)
	// from is applied before, to is what is under way. adopt are the directories that both may take over.
	from, to hostconfig.Tree
	adopt    []string
	// probe publishes and removes a temporary directory after to is applied; uninstall uninstalls instead of
	// applying to.
	probe, uninstall bool
}

// watched are the registries whose view is checked at every moment.
var watched = []string{"docker.io", "a.example.com:5000", "0.example.com", "other.example.com", probeDir}

func scenarios(t *testing.T) map[string]scenario {
	d1 := mirror("docker.io", "https://one.example.com", "one")
	d2 := mirror("docker.io", "https://one.example.com", "two")
	d0 := mirror("0.example.com", "https://zero.example.com", "one") // sorts before _default
	a1 := mirror("a.example.com:5000", "https://a-mirror.example.com", "one")
	def := mirror(hostconfig.DefaultHost, "https://default.example.com", "two")
	toml := func(url, extra string) string {
		return fmt.Sprintf("server = %q\n%s\n[host.%q]\n%s\n", url, extra, url, extra)
	}
	foreignDocker := func(r *rig) {
		r.write("docker.io/hosts.toml", toml("https://theirs.example.com", `ca = "ca/theirs.crt"`))
		r.write("docker.io/ca/theirs.crt", string(cas()["one"].PEM()))
		r.write("docker.io/notes", "mine")
		r.symlink("docker.io/link.crt", "ca/theirs.crt")
		r.age("docker.io")
	}
	foreignBoth := func(r *rig) {
		foreignDocker(r)
		r.write("a.example.com:5000/hosts.toml", toml("https://raw.example.com", ""))
		r.write("unrelated.example.com/hosts.toml", toml("https://unrelated.example.com", ""))
		r.age("a.example.com:5000")
	}
	return map[string]scenario{
		"first publish":   {to: render(t, d1, a1)},
		"nothing at all":  {from: render(t, d1), to: render(t, d1)},
		"change":          {from: render(t, d1), to: render(t, mirror("docker.io", "https://two.example.com", "one"))},
		"remove registry": {from: render(t, d1, a1), to: render(t, a1)},
		"add registry":    {from: render(t, d1), to: render(t, d1, a1)},
		"rotate CA":       {from: render(t, d1, a1), to: render(t, d2, a1)},
		"default comes":   {from: render(t, d1), to: render(t, a1, d0, def)},
		"default goes":    {from: render(t, a1, d0, def), to: render(t, d1)},
		"adopt":           {foreign: foreignDocker, to: render(t, d1), adopt: []string{"docker.io"}},
		"adopt another spelling": {
			foreign: foreignBoth, to: render(t, d1, a1), adopt: []string{"docker.io", "a.example.com_5000_"},
		},
		"give an adopted directory back": {
			foreign: foreignBoth, from: render(t, d1, a1), to: render(t),
			adopt: []string{"docker.io", "a.example.com:5000"},
		},
		"temporary directory": {from: render(t, d1), to: render(t, d1), probe: true},
		"uninstall":           {from: render(t, d1, a1), uninstall: true},
		"uninstall with adopted": {
			foreign: foreignBoth, from: render(t, d1, a1), adopt: []string{"docker.io", "a.example.com_5000_"},
			uninstall: true,
		},
	}
}

func (r *rig) symlink(name, target string) {
	r.t.Helper()
	if err := os.Symlink(target, filepath.Join(r.hosts, name)); err != nil {
		r.t.Fatal(err)
	}
}

// age gives the directory a time in the past.
func (r *rig) age(name string) {
	r.t.Helper()
	old := time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)
	if err := os.Chtimes(filepath.Join(r.hosts, name), old, old); err != nil {
		r.t.Fatal(err)
	}
}

// trial is one run of a scenario with a mishap.
type trial struct {
	scenario
	*rig
	m        *machine
	original map[string]string
	allowed  map[string]map[string]bool // by registry: what containerd may see
	strays   bool                       // somebody has put files into our directories
	seen     string                     // what it saw that it must not
}

func newTrial(t testing.TB, s scenario) *trial {
	tr := &trial{scenario: s, rig: newRig(t), allowed: map[string]map[string]bool{}}
	if s.foreign != nil {
		s.foreign(tr.rig)
	}
	tr.original = snapshot(t, tr.hosts)
	tr.m = newMachine(t, tr.top)
	tr.open = tr.m.open
	if s.from != nil {
		h := tr.start()
		tr.settle(h, s.from)
		tr.close(h)
	}
	tr.m.ops = 0
	return tr
}

// settle applies tree until there is nothing more to do.
func (tr *trial) settle(h *Host, tree hostconfig.Tree) {
	tr.t.Helper()
	for range 10 {
		receipt := tr.apply(h, tree, tr.adopt...)
		if b := blocking(receipt); len(b) > 0 || len(receipt.Left) > 0 && !tr.strays {
			tr.t.Errorf("conflicts %v, left %v", b, receipt.Left)
		}
		if len(receipt.Changed) == 0 && receipt.NextRetire.IsZero() {
			return
		}
		tr.clock.advance(time.Minute)
	}
	tr.t.Errorf("apply does not come to an end")
}

// act does what the scenario is about.
func (tr *trial) act(h *Host) error {
	ctx := context.Background()
	if tr.scenario.uninstall {
		_, err := h.Uninstall(ctx, 0)
		return err
	}
	adopt := map[string]bool{}
	for _, dir := range tr.adopt {
		adopt[dir] = true
	}
	if _, err := h.Apply(ctx, tr.to, Options{Adopt: adopt}); err != nil {
		return err
	}
	if tr.probe {
		remove, err := h.PublishTemporary(ctx, probeDir, probeTree(tr.t))
		if err != nil {
			return err
		}
		if err := remove(ctx); err != nil {
			return err
		}
	}
	tr.clock.advance(time.Minute)
	_, err := h.Apply(ctx, tr.to, Options{Adopt: adopt})
	return err
}

func (tr *trial) allow(t testing.TB, views map[string]string) {
	for host, v := range views {
		if strings.HasPrefix(v, "error") {
			t.Errorf("%s: %s", host, v)
		}
		if tr.allowed[host] == nil {
			tr.allowed[host] = map[string]bool{}
		}
		tr.allowed[host][v] = true
	}
}

func (tr *trial) views() map[string]string {
	out := map[string]string{}
	for _, host := range watched {
		out[host] = view(tr.hosts, host)
	}
	return out
}

// check notes when containerd would see anything but old or new.
func (tr *trial) check(op string) {
	for host, v := range tr.views() {
		if !tr.allowed[host][v] && tr.seen == "" {
			tr.seen = fmt.Sprintf("after %q containerd sees for %s: %s", op, host, v)
		}
	}
}

// ends are the views before and after the scenario, and without hotplate.
func ends(t testing.TB, s scenario) (old, now, without map[string]string) {
	tr := newTrial(t, s)
	old = tr.views()
	var temporary map[string]string
	tr.m.after = func(string) {
		if v := tr.views(); v[probeDir] != old[probeDir] {
			temporary = v
		}
	}
	h := tr.start()
	if err := tr.act(h); err != nil {
		t.Fatalf("without any mishap: %v", err)
	}
	now = tr.views()
	if temporary != nil {
		now = temporary
	}
	tr.m.after = nil
	tr.rig.uninstall(h)
	tr.close(h)
	tr.m.flush()
	wantSame(t, "after uninstall", tr.original, snapshot(t, tr.hosts))
	return old, now, tr.views()
}

// sequel is what the next process wants.
type sequel string

const (
	sameAgain  sequel = "the same again"
	oldAgain   sequel = "the old again"
	nothingNow sequel = "an uninstall"
)

// sequels are all of them, or, unless HOTPLATE_FULL is set, one that differs from step to step: what is killed after
// one operation is in the state of what is killed before the next.
func sequels(n int) []sequel {
	all := []sequel{sameAgain, oldAgain, nothingNow}
	if os.Getenv("HOTPLATE_FULL") != "" {
		return all
	}
	return all[n%len(all):][:1]
}

func TestKilledAtEveryStepTheNextStartFinishesOrUndoes(t *testing.T) {
	for name, s := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, now, without := ends(t, s)
			runs := 0
			for i, m := range deaths {
				for at := 0; ; at++ {
					hit := ""
					for _, next := range sequels(at + i) {
						hit = die(t, s, m, at, next, old, now, without)
						runs++
					}
					if t.Failed() {
						t.FailNow() // one is enough
					}
					if hit == "end" {
						break
					}
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// die runs a scenario until operation number at, where m happens, and then lets a new process go on with next. It
// returns the operation, or "end" when there are not so many.
func die(t *testing.T, s scenario, m mishap, at int, next sequel, old, now, without map[string]string) string {
	t.Helper()
	tr := newTrial(t, s)
	tr.allow(t, old)
	tr.allow(t, now)
	tr.m.after, tr.m.at, tr.m.mishap = tr.check, at, m
	h, err := open(context.Background(), tr.config(), tr.open)
	if err == nil {
		err = tr.act(h)
		tr.close(h)
	}
	total := tr.m.ops
	hit := tr.m.hit
	if hit != "" && err == nil {
		t.Errorf("%s operation %d (%s): no error", m.name, at, hit)
	}
	if hit == "" && err != nil {
		t.Errorf("%s: no operation was hit: %v", m.name, err)
	}
	tr.m.restart()
	tr.check("restart")
	if next == nothingNow {
		tr.allow(t, without)
	}
	tr.goOn(next)
	tr.report(fmt.Sprintf("%s operation %d (%s), then %s", m.name, at, hit, next))
	if hit == "" && at >= total {
		return "end"
	}
	return hit
}

// TestKilledTwice kills a process after some operation, and takes the power from the next one. What the first had not
// synced may be lost then, although the second has seen it.
func TestKilledTwice(t *testing.T) {
	for name, s := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, now, without := ends(t, s)
			runs := 0
			for first := 0; ; first++ {
				hit := ""
				for _, second := range secondDeaths(first) {
					hit = dieTwice(t, s, first, second, old, now, without)
					runs++
				}
				if t.Failed() {
					t.FailNow()
				}
				if hit == "end" {
					break
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// secondDeaths are the operations at which the second process dies: all, or, unless HOTPLATE_FULL is set, a few that
// differ from step to step.
func secondDeaths(first int) []int {
	var all []int
	for at := range 40 {
		if os.Getenv("HOTPLATE_FULL") != "" || at%20 == first%20 {
			all = append(all, at)
		}
	}
	return all
}

func dieTwice(t *testing.T, s scenario, first, second int, old, now, without map[string]string) string {
	t.Helper()
	tr := newTrial(t, s)
	tr.allow(t, old)
	tr.allow(t, now)
	tr.m.after, tr.m.at, tr.m.mishap = tr.check, first, mishap{dies: true, happens: true}
	total, hit := tr.dies()
	tr.m.at, tr.m.ops, tr.m.mishap = second, 0, mishap{dies: true, happens: true, powerLoss: true}
	_, again := tr.dies()
	tr.check("power loss")
	next := sequels(first + second)[0]
	if next == nothingNow {
		tr.allow(t, without)
	}
	tr.goOn(next)
	tr.report(fmt.Sprintf("killed after %d (%s), power lost after %d (%s), then %s", first, hit, second, again, next))
	if hit == "" && first >= total {
		return "end"
	}
	return hit
}

// dies runs a process that may die, and makes the machine ready for the next. It returns how many operations there
// were, and which one was hit.
func (tr *trial) dies() (total int, hit string) {
	tr.t.Helper()
	tr.m.hit = ""
	h, err := open(context.Background(), tr.config(), tr.open)
	if err == nil {
		err = tr.act(h)
		tr.close(h)
	}
	if (tr.m.hit != "") != errors.Is(err, errDead) {
		tr.t.Errorf("operation %d (%q) was hit: %v", tr.m.at, tr.m.hit, err)
	}
	total, hit = tr.m.ops, tr.m.hit
	tr.m.restart()
	return total, hit
}

// goOn is the process after the mishap: it converges, and uninstalls at last.
func (tr *trial) goOn(next sequel) {
	tr.t.Helper()
	h := tr.start()
	defer tr.close(h)
	switch tree := map[sequel]hostconfig.Tree{sameAgain: tr.to, oldAgain: tr.from}[next]; {
	case next == nothingNow:
	case tr.scenario.uninstall && next == sameAgain:
	default:
		tr.settle(h, tree)
		tr.holds(tree)
	}
	tr.check("converged")
	tr.m.after = nil
	tr.rig.uninstall(h)
	tr.m.flush()
	wantSame(tr.t, "hosts directory after uninstall", tr.original, snapshot(tr.t, tr.hosts))
	if got := slices.Sorted(maps.Keys(names(snapshot(tr.t, tr.dir)))); !slices.Equal(got, []string{"lock"}) {
		tr.t.Errorf("state directory after uninstall holds %v", got)
	}
}

// holds checks that the hosts directory holds tree, and nothing of hotplate's besides.
func (tr *trial) holds(tree hostconfig.Tree) {
	tr.t.Helper()
	for p, f := range tree {
		if got := string(readFile(tr.t, filepath.Join(tr.hosts, p))); got != string(f.Data) {
			tr.t.Errorf("%s holds %q", p, got)
		}
	}
	for p := range snapshot(tr.t, tr.hosts) {
		_, wanted := tree[p]
		_, foreign := tr.original[p]
		if strings.HasPrefix(p, ".hotplate/") && !wanted && !strings.HasPrefix(p, keptDir) ||
			!strings.HasPrefix(p, ".hotplate") && strings.HasSuffix(p, ".toml") && !wanted && !foreign {
			tr.t.Errorf("%s is still there", p)
		}
	}
}

func (tr *trial) report(what string) {
	tr.t.Helper()
	if tr.seen != "" {
		tr.t.Errorf("%s", tr.seen)
	}
	if tr.t.Failed() {
		tr.t.Errorf("that was: %s", what)
	}
}

func TestEveryOperationFailingOnceLeavesOldOrNewAndTheNextCallFinishes(t *testing.T) {
	for name, s := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, now, without := ends(t, s)
			runs := 0
			for _, m := range failures {
				if errors.Is(m.err, syscall.EIO) && os.Getenv("HOTPLATE_FULL") == "" {
					continue // what is done about an error does not depend on which it is
				}
				for at := 0; ; at++ {
					hit := failOnce(t, s, m, at, old, now, without)
					runs++
					if t.Failed() {
						t.FailNow()
					}
					if hit == "end" {
						break
					}
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// failOnce is die for a process that lives on.
func failOnce(t *testing.T, s scenario, m mishap, at int, old, now, without map[string]string) string {
	t.Helper()
	tr := newTrial(t, s)
	tr.allow(t, old)
	tr.allow(t, now)
	tr.m.after, tr.m.at, tr.m.mishap = tr.check, at, m
	h, err := open(context.Background(), tr.config(), tr.open)
	if err != nil {
		if !errors.Is(err, m.err) {
			t.Errorf("open: %v", err)
		}
		h = tr.start()
	}
	if err := tr.act(h); err != nil && !errors.Is(err, m.err) {
		t.Errorf("act: %v", err)
	}
	hit, total := tr.m.hit, tr.m.ops
	tr.m.heal()
	if err := tr.act(h); err != nil {
		t.Errorf("act again: %v", err)
	}
	if !tr.scenario.uninstall {
		tr.settle(h, tr.to)
		tr.holds(tr.to)
	}
	tr.check("converged")
	tr.allow(t, without)
	tr.rig.uninstall(h)
	tr.close(h)
	tr.m.flush()
	wantSame(t, "hosts directory after uninstall", tr.original, snapshot(t, tr.hosts))
	tr.report(fmt.Sprintf("%s, operation %d (%s)", m.name, at, hit))
	if hit == "" && at >= total {
		return "end"
	}
	return hit
}
