package main

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hotplate-dev/hotplate/agent/link"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// What package agent/link goes by.
const (
	dialTimeout = 5 * time.Second
	askTimeout  = 20 * time.Second
)

// tokenTrusted is how long the coordinator believes the API server's word (agent/coordinator/auth.go).
const tokenTrusted = 2 * time.Minute

// fleet is what agents share.
type fleet struct {
	site *site
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// fetch is how long an image takes.
	fetch   time.Duration
	samples atomic.Pointer[samples] // of the phase
}

// agent is one node's. Its goroutine owns it, but for answered.
type agent struct {
	*fleet
	node, token string
	answered    atomic.Int64 // when, in nanoseconds of Unix time; 0 if never

	client   *http.Client
	at       view
	reviewed time.Time // when the coordinator last had to ask whose token it is
	images   []image
	rhythm   *link.Rhythm
}

// image is one that the node should hold.
type image struct {
	want  report.WantedImage
	phase report.ImagePhase
	until time.Time // when it is there, while it is fetched
}

func newAgent(f *fleet, node, token string) *agent {
	return &agent{fleet: f, node: node, token: token, rhythm: link.NewRhythm()}
}

// run reports until ctx ends.
func (a *agent) run(ctx context.Context) {
	for ctx.Err() == nil {
		at, began := a.site.look(), time.Now()
		r := a.report(at.hash, began)
		d, err := a.ask(ctx, at, r)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.pause(ctx, began, a.rhythm.Failed(retryAfter(err)), at.moved, nil)
			continue
		}
		woken := at.configured
		if a.take(d, time.Now()) {
			woken = make(chan struct{})
			close(woken)
		}
		a.pause(ctx, began, a.rhythm.Answered(d, r), at.moved, woken)
	}
}

// take does what a Directive says, and tells whether that changes what is to be reported.
func (a *agent) take(d report.Directive, now time.Time) (changed bool) {
	var images []image
	for _, want := range d.Images {
		is := image{want: want, phase: report.ImagePending}
		for _, had := range a.images {
			if had.want.Name == want.Name && had.want.Digest == want.Digest {
				is.phase, is.until = had.phase, had.until
			}
		}
		if is.phase == report.ImagePending && want.Digest != "" && d.Pull.Granted {
			is.phase, is.until = report.ImageFetching, now.Add(time.Duration(float64(a.fetch)*(0.8+0.4*rand.Float64())))
			changed = true
		}
		images = append(images, is)
	}
	a.images = images
	return changed
}

// finish makes Ready what has been fetched by now, and returns when the next one is; zero if none is on its way.
func (a *agent) finish(now time.Time) (next time.Time) {
	for i := range a.images {
		is := &a.images[i]
		switch {
		case is.phase != report.ImageFetching:
		case !now.Before(is.until):
			is.phase = report.ImageReady
		case next.IsZero() || is.until.Before(next):
			next = is.until
		}
	}
	return next
}

// pause waits as given after a report that began then, or less when something happens.
func (a *agent) pause(ctx context.Context, began time.Time, wait time.Duration, moved, woken <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var fetched <-chan time.Time
	if next := a.finish(time.Now()); !next.IsZero() {
		soon := time.NewTimer(time.Until(next))
		defer soon.Stop()
		fetched = soon.C
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-fetched:
		link.Change(ctx, began)
	case <-woken:
		link.Change(ctx, began)
	case <-moved:
		a.rhythm.Moved()
		link.Move(ctx, began)
	}
}

// layers is how many an image has.
const layers = 12

// report is what a node of this kind says.
func (a *agent) report(hash string, now time.Time) report.NodeReport {
	a.finish(now)
	r := report.NodeReport{
		Node: a.node, AgentVersion: "v0.0.0-bench", Time: now,
		Config:     report.ConfigStatus{Source: "ConfigMap " + namespace + "/" + configMap, Hash: hash},
		Containerd: report.Containerd{Address: "/run/containerd/containerd.sock", Version: "v2.4.2", HostsDir: "/etc/containerd/certs.d"},
		Registries: []report.Registry{{Host: host, State: report.RegistryApplied,
			Mirrors: []report.Mirror{{URL: "https://mirror.example.com:5000", Reachable: true, Message: "200 OK"}}}},
		Certificates: []report.Certificate{{Used: "bundle site", Subject: "CN=site", NotAfter: now.AddDate(1, 0, 0), State: "Valid"}},
	}
	for _, t := range []string{report.ConfigValid, report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive, report.CertificatesValid} {
		r.Conditions = append(r.Conditions, report.Condition{Type: t, Status: report.True, Reason: "AsExpected",
			Message: "looked at it, and it is as it should be", LastTransitionTime: now.Add(-time.Hour).Truncate(time.Second)})
	}
	for _, is := range a.images {
		r.Images = append(r.Images, is.report(now))
	}
	r.Ready = !slices.ContainsFunc(a.images, func(i image) bool { return i.phase != report.ImageReady })
	return r
}

func (i image) report(now time.Time) report.Image {
	const layer = 1 << 30
	out := report.Image{Name: i.want.Name, Ref: i.want.Ref, Digest: i.want.Digest, Target: i.want.Digest, Phase: i.phase, Pinned: i.want.Pin,
		BytesTotal: layers * layer}
	switch i.phase {
	case report.ImagePending:
		out.Reason, out.Digest, out.Target = report.WaitsForTurn, "", ""
	case report.ImageFetching:
		out.Rate, out.Left, out.BytesDone = 1<<30, time.Until(i.until), layers/2*layer
		for range layers {
			out.Layers = append(out.Layers, report.Layer{Digest: i.want.Digest, Phase: i.phase, Size: layer, Done: layer / 2, Rate: 80 << 20,
				Left: i.until.Sub(now), Host: "mirror.example.com:5000"})
		}
	case report.ImageReady:
		out.BytesDone, out.Size, out.Way, out.BoundBy = out.BytesTotal, 2*out.BytesTotal, "Direct", "network"
	}
	return out
}
