package prefetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// The defaults of Config.
const (
	DefaultMaxParallel = 32
	DefaultMemory      = 256 << 20
	DefaultChunkSize   = 4 << 20
)

// Config is what a Prefetcher needs.
type Config struct {
	// Hosts finds the registry hosts of a reference, in order; required. It is asked anew for every image, so that
	// changed hosts and certificates are seen. Use Hosts to read a node's certs.d.
	Hosts docker.RegistryHosts
	// Store is where images go; required.
	Store Store
	// Log is required.
	Log *slog.Logger
	// MaxParallel is how many requests for parts of images are under way at once, over all images. Default: 32.
	MaxParallel int
	// MaxBandwidth is how many bytes a second are fetched at most, over all images; 0 means no limit.
	MaxBandwidth int64
	// Memory is how many bytes of images are held in memory at once, over all images. Default: 256 MiB.
	Memory int64
	// KeepLayers says whether the compressed layers stay in the store beside the unpacked ones. Default: KeepAuto.
	KeepLayers KeepLayers
	// Reserve is the share of each filesystem that is left free, 0 to 0.9. Default: 0.15, at which the kubelet begins
	// to evict. A negative value means no reserve.
	Reserve float64
	// MaxPinned is how many bytes all our pinned images together may take; 0 means no limit.
	MaxPinned int64
	// Way forces a way; empty takes the direct one where it is open.
	Way WayName
	// Staging is a directory for partial layers where the way is API; empty keeps none, and what containerd drops of a
	// partial layer is fetched anew.
	Staging string
	// ChunkSize is how many bytes one request asks for. Default: 4 MiB, or less, so that MaxParallel chunks and half as
	// many that wait for their turn fit into Memory.
	ChunkSize int64
	// UserAgent is sent with every request. Default: hotplate/<version of this build>.
	UserAgent string
	// StallTimeout is how long no byte may arrive before a request is repeated. Default: 30 s.
	StallTimeout time.Duration
	// Tries is how often in a row a request to the last host may fail without 64 KiB of progress. Default: 8, which
	// takes about a minute.
	Tries int
}

// KeepLayers says whether the compressed layers stay in the store.
type KeepLayers string

// The values of KeepLayers. KeepAuto follows the daemon's discard_unpacked_layers, and keeps them where the daemon does
// not tell. Without blobs a pull by the kubelet still ends well, but nobody can fetch them from this node.
const (
	KeepAuto   KeepLayers = "Auto"
	KeepAlways KeepLayers = "Always"
	KeepNever  KeepLayers = "Never"
)

// Bound is what held a pull back.
type Bound string

// The values of Bound. Stream means that one layer's decompression was the last to end, with the network and the disk
// waiting for it.
const (
	BoundNothing  Bound = ""
	BoundNetwork  Bound = "network"
	BoundStream   Bound = "stream"
	BoundDisk     Bound = "disk"
	BoundRegistry Bound = "registry" // it asked us to wait
)

// Prefetcher makes images ready. It is safe for concurrent use; images share its limits.
type Prefetcher struct {
	cfg     Config
	fetch   *fetch.Client
	budget  *budget             // of chunks
	pipes   *semaphore.Weighted // of layers that are being laid out
	keys    keyLocks            // by Image.key, chain and blob
	dirs    stagingDirs
	trees   treeSet
	company company
	ratios  ratios
	room    room
	// volumeOf is VolumeOf.
	volumeOf func(dir string) Volume

	pipeMemory int64           // how much pipes is, in bytes
	byWay      [2]atomic.Int64 // bytes of layers that came by Direct and API
}

// New checks cfg and returns a Prefetcher.
func New(cfg Config) (*Prefetcher, error) {
	if cfg.Hosts == nil || cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("prefetch: Hosts, Store and Log are required")
	}
	cfg.MaxParallel = cmp.Or(cfg.MaxParallel, DefaultMaxParallel)
	cfg.Memory = cmp.Or(cfg.Memory, DefaultMemory)
	cfg.ChunkSize = cmp.Or(cfg.ChunkSize, DefaultChunkSize)
	cfg.UserAgent = cmp.Or(cfg.UserAgent, userAgent())
	cfg.KeepLayers = cmp.Or(cfg.KeepLayers, KeepAuto)
	cfg.Reserve = cmp.Or(cfg.Reserve, DefaultReserve)
	if cfg.MaxParallel < 1 || cfg.Memory < smallest || cfg.ChunkSize < 1 || cfg.Reserve > 0.9 {
		return nil, fmt.Errorf("prefetch: MaxParallel %d, Memory %d and ChunkSize %d must be at least 1, %d and 1, and Reserve %g "+
			"at most 0.9", cfg.MaxParallel, cfg.Memory, cfg.ChunkSize, smallest, cfg.Reserve)
	}
	client, err := fetch.New(fetch.Config{
		Hosts: cfg.Hosts, Log: cfg.Log, MaxParallel: cfg.MaxParallel, UserAgent: cfg.UserAgent,
		StallTimeout: cfg.StallTimeout, Tries: cfg.Tries, MaxBandwidth: cfg.MaxBandwidth,
	})
	if err != nil {
		return nil, err
	}
	pipes := cfg.Memory / 4
	chunks := cfg.Memory - pipes
	return &Prefetcher{
		cfg: cfg, fetch: client, volumeOf: VolumeOf, pipes: semaphore.NewWeighted(pipes), pipeMemory: pipes,
		budget: newBudget(chunks, chunkFor(cfg.ChunkSize, chunks, cfg.MaxParallel)),
	}, nil
}

// Result tells what became of an image.
type Result struct {
	// Ref is the normalised reference.
	Ref string `json:"ref"`
	// Digest is the manifest that is used on this node. IndexDigest is the index it was chosen from, or empty.
	Digest      string `json:"digest"`
	IndexDigest string `json:"indexDigest,omitempty"`
	// ConfigDigest is the image ID of CRI; for an artifact, which CRI does not know, the manifest's digest.
	ConfigDigest string `json:"configDigest"`
	ChainID      string `json:"chainID"` // empty for an artifact
	// Names are the image records that point at it. An artifact has none, but is kept under these names.
	Names        []string `json:"names"`
	Pinned       bool     `json:"pinned"`
	PinSupported bool     `json:"pinSupported"`
	// Mountable is false for an artifact that is no root filesystem: its content is there, but no container can run
	// it or mount it. Note says so.
	Mountable bool `json:"mountable"`
	// Way is how the layers got in, WayReason why not directly. Kept tells whether their blobs stay. All are empty
	// when nothing had to be fetched.
	Way       WayName `json:"way,omitempty"`
	WayReason string  `json:"wayReason,omitempty"`
	Kept      bool    `json:"kept,omitempty"`
	// Size is what the image takes on the disk in bytes, shared layers included, estimated when it was fetched; 0 where it is
	// not known.
	Size         int64         `json:"size,omitempty"`
	BytesFetched int64         `json:"bytesFetched"`
	Duration     time.Duration `json:"duration"`
	// BoundBy is what held the pull back, Advice what would help; both empty when nothing had to be fetched.
	BoundBy Bound    `json:"boundBy,omitempty"`
	Advice  []string `json:"advice,omitempty"`
	// Note is what a person should know although it is no error; empty if nothing.
	Note string `json:"note,omitempty"`
}

// Target is the digest that the image's names point at: the index's, or the manifest's if there is no index.
func (r Result) Target() string {
	if r.IndexDigest != "" {
		return r.IndexDigest
	}
	return r.Digest
}

// Ensure makes img ready and returns when it is, or with the reason why not. It may be called again at any time; what is
// there already is not fetched again. Calls for the same image run one after the other. When no registry can tell what a
// tag means, an image that is complete under its names is ready as it is, and Result.Note says so.
//
// A failure leaves no image record. What was fetched stays for the next call.
func (p *Prefetcher) Ensure(ctx context.Context, img Image, pr *Progress) (res Result, err error) {
	start := time.Now()
	if pr == nil {
		pr = new(Progress)
	}
	pr.start(img.Ref)
	defer func() {
		pr.end(err)
		res.BytesFetched, res.Duration = pr.Snapshot().BytesFetched, time.Since(start)
	}()
	want, err := img.parse()
	if err != nil {
		return res, err
	}
	pr.start(want.ref.String())
	unlock, err := p.keys.lock(ctx, img.key())
	if err != nil {
		return res, err
	}
	defer unlock()
	repo, err := p.fetch.Repository(want.ref)
	if err != nil {
		return res, err
	}
	defer repo.Close()
	r := &run{p: p, key: img.key(), want: want, ref: want.ref.String(), repo: repo, progress: pr}
	defer r.end()
	res, err = r.ensure(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // what was cancelled may only say that it was
	}
	if err != nil {
		return res, fmt.Errorf("image %s: %w", r.ref, err)
	}
	return res, nil
}

// Check tells whether img is ready now, under all its names, without asking a registry. With a digest, as in
// Result.Target or Result.Digest, it must be that one; with an empty one, whatever Ref's name points at. The Result
// holds what is there, also when it is not ready; Note then says what is missing.
func (p *Prefetcher) Check(ctx context.Context, img Image, wantDigest string) (Result, bool, error) {
	want, err := img.parse()
	if err != nil {
		return Result{}, false, err
	}
	names := []string{want.ref.String()}
	st, err := p.cfg.Store.State(ctx, Query{Names: names, Platform: want.platform})
	if err != nil {
		return Result{}, false, fmt.Errorf("image %s: %w", want.ref, err)
	}
	if st.Target == "" {
		return Result{Ref: names[0], Note: "containerd has no image " + names[0]}, false, nil
	}
	if names, err = want.names(st.Target); err != nil {
		return result(want, nil, st), false, err
	}
	if st, err = p.cfg.Store.State(ctx, Query{Names: names, Target: st.Target, Platform: want.platform}); err != nil {
		return Result{}, false, fmt.Errorf("image %s: %w", want.ref, err)
	}
	res := result(want, names, st)
	lacks := missing(st, names, want.pin)
	if wantDigest != "" && wantDigest != st.Target.String() && wantDigest != st.Manifest.String() {
		lacks = fmt.Sprintf("%s points at %s, not at %s", want.ref, st.Target, wantDigest)
	}
	if lacks != "" {
		res.Note = lacks
	}
	return res, lacks == "", nil
}

// Unpin removes our pin from the image with this ID, a Result's ConfigDigest. Pins of others are left.
func (p *Prefetcher) Unpin(ctx context.Context, configDigest string) error {
	id, err := digest.Parse(configDigest)
	if err != nil {
		return fmt.Errorf("image ID %q: %w", configDigest, err)
	}
	return p.cfg.Store.Unpin(ctx, id)
}

// Remove removes the image with this ID under all its names, unless a container uses it or someone else has pinned it;
// the error is an ErrInUse then.
func (p *Prefetcher) Remove(ctx context.Context, configDigest string) error {
	id, err := digest.Parse(configDigest)
	if err != nil {
		return fmt.Errorf("image ID %q: %w", configDigest, err)
	}
	return p.cfg.Store.Remove(ctx, id)
}

// Watch calls changed, from one goroutine, after somebody changed or removed an image record, and returns when ctx ends
// (nil) or the store can no longer tell; then changes have been missed, and it may be called again.
func (p *Prefetcher) Watch(ctx context.Context, changed func()) error {
	return p.cfg.Store.Watch(ctx, changed)
}

// Disk is the filesystem with the snapshots on it, where most of an image is. Its Path is empty where it cannot be looked at
// from here.
func (p *Prefetcher) Disk(ctx context.Context) (Volume, error) {
	space, err := p.cfg.Store.Space(ctx)
	return space.Snapshots, err
}

// Stats are counters since New, and gauges of the present.
func (p *Prefetcher) Stats() Stats {
	return Stats{
		Hosts:      p.fetch.Stats(),
		BytesByWay: map[WayName]int64{Direct: p.byWay[0].Load(), API: p.byWay[1].Load()},
		MemoryUsed: p.budget.used.Load(), MemoryLimit: p.budget.total, Waiting: int(p.budget.waiting.Load()),
	}
}

// Throttle lets nobody ask a registry host, host[:port], for d, at most two minutes: it has asked others to be left alone.
func (p *Prefetcher) Throttle(host string, d time.Duration) { p.fetch.Throttle(host, d) }

// Throttled are the registry hosts that have asked to be left alone (Retry-After), and for how much longer.
func (p *Prefetcher) Throttled() map[string]time.Duration { return p.fetch.Throttled() }

// came counts bytes of layers.
func (p *Prefetcher) came(way WayName, n int64) {
	if way == Direct {
		p.byWay[0].Add(n)
	} else {
		p.byWay[1].Add(n)
	}
}

// Stats is what a Prefetcher has done and is doing. Byte counts are of bodies.
type Stats struct {
	// Hosts has what package fetch counts, by host and port.
	Hosts map[string]fetch.HostStats
	// BytesByWay counts the bytes of layers that were fetched.
	BytesByWay map[WayName]int64
	// MemoryUsed of MemoryLimit is taken now; Waiting is how many chunks wait for a place.
	MemoryUsed, MemoryLimit int64
	Waiting                 int
}

// Pins are the images that carry a pin of ours.
func (p *Prefetcher) Pins(ctx context.Context) ([]Pin, error) {
	return p.cfg.Store.Pins(ctx)
}

// Hosts reads the registry hosts of a hosts directory (certs.d) as containerd does, at every call. creds gives user and
// secret for the registry that the reference names, such as docker.io, at the host that is really asked, such as
// registry-1.docker.io or harbor.example.com:8443; an empty user with a secret means a long-lived token, both empty means
// no credentials. The proxy is taken from the environment.
func Hosts(hostsDir string, creds func(registry, host string) (user, secret string, err error)) docker.RegistryHosts {
	return fetch.Hosts(hostsDir, userAgent(), creds)
}

// userAgent names this build.
func userAgent() string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = strings.Trim(info.Main.Version, "()")
	}
	return "hotplate/" + version
}
