package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

const (
	// poll is how often is looked whether something has happened, and so how exact times are.
	poll = 200 * time.Millisecond
	// patience is how long nothing may get on.
	patience = 3 * time.Minute
	// dials is how many connections are begun at once, each of which needs a thread in the cluster's network.
	dials = 64
	// quiet is how long nothing may be written for a phase's writes to be complete.
	quiet = 3 * time.Second
)

// bench is one run.
type bench struct {
	options
	say     func(string)
	cluster *rig.Cluster
	client  kubernetes.Interface // of an administrator, without bounds
	fleet   *fleet
	agents  []*agent
	watch   *watch
	report  *Report
}

// measure does all of it. It leaves its files, and nothing else.
func measure(ctx context.Context, o options, say func(string)) (r *Report, err error) {
	if o.coordinator, err = filepath.Abs(o.coordinator); err != nil {
		return nil, err
	}
	o.pullers = cmp.Or(o.pullers, o.nodes)
	b := &bench{options: o, say: say, report: &Report{Time: time.Now(), Commit: commit(ctx, o.root), Nodes: o.nodes, Pullers: o.pullers,
		Fetch: o.fetch.Seconds(), Ramp: o.ramp.Seconds()}}
	if b.report.Machine, err = machine(ctx, o.coordinator); err != nil {
		return nil, err
	}
	if b.cluster, err = rig.StartCluster(ctx, clusterConfig(o.dir)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	return b.report, b.run(ctx)
}

// open makes the cluster's objects.
func (b *bench) open(ctx context.Context) (err error) {
	if b.client, err = kube.Connect(b.cluster.RESTConfig(), "benchcoordinator", -1, 0); err != nil {
		return err
	}
	is, err := b.client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	b.report.Machine.Kubernetes = is.GitVersion
	places := make(chan struct{}, dials)
	b.fleet = &fleet{site: newSite(), fetch: b.fetch, dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		places <- struct{}{}
		defer func() { <-places }()
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return b.cluster.Dial(ctx, network, address)
	}}
	b.fleet.samples.Store(newSamples())
	began := time.Now()
	b.tell("making %d Nodes, pods and tokens", b.nodes)
	err = b.prepare(ctx)
	b.report.Prepared = time.Since(began).Seconds()
	return err
}

func (b *bench) tell(format string, args ...any) {
	b.say(time.Now().Format(time.TimeOnly) + " " + fmt.Sprintf(format, args...))
}

// run goes through the phases.
func (b *bench) run(ctx context.Context) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer end(nil)
	if b.watch, err = startWatch(ctx, b.client); err != nil {
		return err
	}
	defer b.watch.stop()
	defer end(nil) // which stop waits for
	log := slog.New(slog.DiscardHandler)
	kube.RouteLogs(log)
	finder := kube.NewFinder(b.client, namespace, log)
	source, err := kube.New(kube.Config{Client: b.client, Namespace: namespace, ConfigMap: configMap, Log: log, RunDir: filepath.Join(b.dir, "run")})
	if err != nil {
		return errors.Join(err, finder.Close())
	}
	defer func() { err = errors.Join(err, finder.Close(), source.Close()) }()
	work.Go(func() {
		if err := b.fleet.site.follow(ctx, finder, source); err != nil {
			end(err)
		}
	})
	first, err := b.startReplica(ctx, 1)
	if err != nil {
		return err
	}
	defer func() { _ = first.kill() }() // it has been killed before, if all went well
	if err := b.await(ctx, "the coordinator to lead", func() error { return first.leads(ctx) }); err != nil {
		return err
	}
	if err := b.fill(ctx, first, &work); err != nil {
		return err
	}
	if err := b.idle(ctx, first); err != nil {
		return err
	}
	return b.change(ctx, first)
}

// meter measures one phase.
type meter struct {
	phase   Phase
	began   time.Time
	writes  writes
	own     float64
	samples *samples
	used    proc.Counters // of the replica at the beginning
}

// begin begins a phase.
func (b *bench) begin(ctx context.Context, name string, r *replica) (*meter, error) {
	m := &meter{phase: Phase{Name: name}, samples: newSamples()}
	own, err := r.metrics(ctx)
	if err != nil {
		return nil, err
	}
	m.own = own[writesSeries]
	if m.writes, err = b.apiWrites(ctx); err != nil {
		return nil, err
	}
	if err := proc.ResetPeak(r.cmd.Process.Pid); err != nil {
		return nil, err
	}
	if m.used, err = r.used(); err != nil {
		return nil, err
	}
	b.tell("%s begins", name)
	b.fleet.samples.Store(m.samples)
	m.began = time.Now()
	return m, nil
}

// took adds what a replica has used since before.
func (m *meter) took(r *replica, before proc.Counters) error {
	now, err := r.used()
	m.phase.CPUSeconds += now.CPUSeconds - before.CPUSeconds
	m.phase.PeakRSS = max(m.phase.PeakRSS, now.PeakRSS)
	return err
}

// end ends the phase now, during which r is the last leader; before is what r had used when it began to be.
func (b *bench) end(ctx context.Context, m *meter, r *replica, before proc.Counters) error {
	m.phase.Seconds = time.Since(m.began).Seconds()
	m.samples.put(&m.phase)
	if err := m.took(r, before); err != nil {
		return err
	}
	if err := b.awaitQuiet(ctx); err != nil { // Events come after what they are about
		return err
	}
	own, err := r.metrics(ctx)
	if err != nil {
		return err
	}
	m.phase.OwnWrites = int(own[writesSeries] - m.own)
	now, err := b.apiWrites(ctx)
	if err != nil {
		return err
	}
	w := now.sub(m.writes)
	m.phase.NodeWrites, m.phase.EventWrites, m.phase.TokenReviews = int(w.nodes), int(w.events), int(w.reviews)
	b.report.Phases = append(b.report.Phases, m.phase)
	b.tell("%s took %.1f s: %+v", m.phase.Name, m.phase.Seconds, m.phase)
	return nil
}

// fill lets every agent begin.
func (b *bench) fill(ctx context.Context, r *replica, work *sync.WaitGroup) error {
	m, err := b.begin(ctx, phaseFill, r)
	if err != nil {
		return err
	}
	for _, a := range b.agents {
		work.Go(func() {
			first := time.NewTimer(rand.N(max(b.ramp, 1)))
			defer first.Stop()
			select {
			case <-ctx.Done():
			case <-first.C:
				a.run(ctx)
			}
		})
	}
	if err := b.awaitNodes(ctx, false, b.nodes); err != nil {
		return err
	}
	return b.end(ctx, m, r, m.used)
}

// idle measures while nothing happens.
func (b *bench) idle(ctx context.Context, r *replica) error {
	m, err := b.begin(ctx, phaseSteady, r)
	if err != nil {
		return err
	}
	timer := time.NewTimer(b.steady)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	return b.end(ctx, m, r, m.used)
}

// change wants another image, and kills the coordinator when half of the nodes have it.
func (b *bench) change(ctx context.Context, first *replica) error {
	m, err := b.begin(ctx, phaseChange, first)
	if err != nil {
		return err
	}
	maps := b.client.CoreV1().ConfigMaps(namespace)
	is, err := maps.Get(ctx, configMap, metav1.GetOptions{})
	if err != nil {
		return err
	}
	is.Data["config.yaml"] = b.config("first", "second")
	if _, err := maps.Update(ctx, is, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := b.awaitNodes(ctx, true, b.nodes/2); err != nil {
		return err
	}
	if err := m.took(first, m.used); err != nil {
		return err
	}
	led, err := first.led()
	if err := errors.Join(err, first.kill()); err != nil {
		return err
	}
	b.report.Takeover.Led = led
	return b.takeover(ctx, m)
}

// takeover starts another replica and waits until all is well.
func (b *bench) takeover(ctx context.Context, m *meter) error {
	killed := time.Now()
	t := &b.report.Takeover
	t.ReadyBefore = b.watch.done(true)
	b.tell("killed the coordinator while %d nodes had both images", t.ReadyBefore)
	second, err := b.startReplica(ctx, 2)
	if err != nil {
		return err
	}
	defer func() { _ = second.kill() }()
	if err := b.await(ctx, "the other replica to lead", func() error { return second.leads(ctx) }); err != nil {
		return err
	}
	t.Leads = time.Since(killed).Seconds()
	if err := b.await(ctx, "every node to be heard again", func() error { return b.heardSince(killed) }); err != nil {
		return err
	}
	t.Heard = time.Since(killed).Seconds()
	if err := b.awaitNodes(ctx, true, b.nodes); err != nil {
		return err
	}
	t.Ready = time.Since(killed).Seconds()
	m.own = 0 // the counter of the other replica begins anew
	led, err := second.led()
	if err := errors.Join(err, b.end(ctx, m, second, proc.Counters{})); err != nil {
		return err
	}
	t.Led += led
	t.Lost, t.Unknown = b.watch.faults()
	for _, r := range b.cluster.Front().Requests() {
		if filepath.Base(filepath.Dir(r.Path)) == "manifests" {
			b.report.Resolved++
		}
	}
	return nil
}

// heardSince tells whether every agent has had an answer since then.
func (b *bench) heardSince(when time.Time) error {
	missing := 0
	for _, a := range b.agents {
		if a.answered.Load() < when.UnixNano() {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d nodes have had no answer", missing)
	}
	return nil
}

// awaitNodes waits until so many Nodes say that all is there, for as long as there are more and more of them.
func (b *bench) awaitNodes(ctx context.Context, both bool, want int) error {
	most := math.MinInt
	for {
		err := b.await(ctx, "more nodes to be Ready", func() error {
			if now := b.watch.done(both); now <= most && now < want {
				return fmt.Errorf("%d of %d are", now, want)
			}
			return nil
		})
		if most = b.watch.done(both); err != nil || most >= want {
			return err
		}
	}
}

// awaitQuiet waits until nothing is written any more.
func (b *bench) awaitQuiet(ctx context.Context) error {
	last, since := writes{}, time.Time{}
	return b.await(ctx, "all writes to end", func() error {
		now, err := b.apiWrites(ctx)
		if err != nil {
			return err
		}
		if now.nodes != last.nodes || now.events != last.events {
			last, since = now, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Errorf("there are %.0f on Nodes and %.0f Events, and more come", now.nodes, now.events)
		}
		return nil
	})
}

// await waits until check is content.
func (b *bench) await(ctx context.Context, what string, check func() error) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-ticker.C:
		}
	}
}
