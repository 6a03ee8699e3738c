package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// creationEvery is how often a container is created.
const creationEvery = 250 * time.Millisecond

// creations measures container creation when idle and during pulls of each contestant, over the first link and with the
// first image that were asked for.
func (b *bench) creations(ctx context.Context, img stored, l link, linkName string) error {
	idle := report.Creation{Contestant: report.Idle}
	err := b.whileOn(ctx, img, l, contestant{}, &idle, func(ctx context.Context, _ *node, created func() int) error {
		return await(ctx, time.Minute, func() bool { return created() >= b.creationSamples })
	})
	if err != nil {
		return err
	}
	b.addCreation(idle)
	for _, c := range b.contestants {
		result := report.Creation{Contestant: c.name, Image: img.spec.name, Link: linkName}
		for i := range b.creationPulls {
			if len(result.Seconds)+result.Failures >= b.creationSamples {
				break
			}
			if err := l.Begin(uint64(i)); err != nil {
				return err
			}
			err := b.whileOn(ctx, img, l, c, &result, func(ctx context.Context, n *node, _ func() int) error {
				ctx, cancel := context.WithTimeout(ctx, b.limit)
				defer cancel()
				_, _, err := n.order(ctx, c, b.hotplate, modelHost+"/"+repository+":"+img.spec.tag())
				return err
			})
			if err != nil {
				return err
			}
			result.Pulls++
		}
		b.addCreation(result)
	}
	return nil
}

func (b *bench) addCreation(c report.Creation) {
	b.report.Creations = append(b.report.Creations, c)
	b.say(fmt.Sprintf("container creation, %s: %d samples, median %.0f ms, p99 %.0f ms", c.Contestant, len(c.Seconds),
		report.Median(c.Seconds)*1e3, report.Percentile(c.Seconds, 99)*1e3))
}

// whileOn creates containers on a cold node for as long as work takes, and adds the times to the result.
func (b *bench) whileOn(ctx context.Context, img stored, l link, c contestant, result *report.Creation,
	work func(ctx context.Context, n *node, created func() int) error) (err error) {
	tiny := tinyHost + "/" + repository + ":" + tinyImage().tag()
	config := c.config + fmt.Sprintf("\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = %q\n", tiny)
	n, err := b.coldNode(ctx, img, l, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if _, err := n.cri.PullImage(ctx, tiny, nil); err != nil {
		return err
	}
	p := pods{cri: n.cri, image: tiny, dir: n.dir}
	if _, err := p.create(ctx); err != nil {
		return fmt.Errorf("create a container on a new node: %w", err) // the first one reads programs from disk
	}
	working, stop := context.WithCancel(ctx)
	var creating sync.WaitGroup
	creating.Go(func() { p.loop(working, ctx) })
	err = work(ctx, n, p.count)
	stop()
	creating.Wait()
	result.Seconds = append(result.Seconds, p.seconds...)
	result.Failures += p.failures
	return errors.Join(err, ctx.Err())
}

// pods creates containers of one image.
type pods struct {
	cri        *rig.CRI
	image, dir string
	n          int // pods so far; of the one goroutine that creates

	mu       sync.Mutex
	seconds  []float64
	failures int
}

func (p *pods) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seconds) + p.failures
}

// loop creates and removes containers until working ends, the last one to its end.
func (p *pods) loop(working, ctx context.Context) {
	tick := time.NewTicker(creationEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-working.Done():
			return
		}
		took, err := p.create(ctx)
		p.mu.Lock()
		if err != nil {
			p.failures++
		} else {
			p.seconds = append(p.seconds, took.Seconds())
		}
		p.mu.Unlock()
	}
}

// create makes a pod on the node's network, which needs no CNI, with a container in it, and removes both. The time is
// that of RunPodSandbox and CreateContainer.
func (p *pods) create(ctx context.Context) (took time.Duration, err error) {
	p.n++
	host := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("pod-", p.n), Namespace: "default", Uid: fmt.Sprint(p.n)},
		LogDirectory: p.dir,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: host},
		},
	}
	start := time.Now()
	pod, err := p.cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return 0, fmt.Errorf("run a pod: %w", err)
	}
	_, err = p.cri.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: pod.GetPodSandboxId(), SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: p.image},
		},
	})
	took = time.Since(start)
	id := pod.GetPodSandboxId()
	_, stopErr := p.cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	_, removeErr := p.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return took, errors.Join(err, stopErr, removeErr)
}
