package fetch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	mb       = 1_000_000
	testSize = 4 << 20 // of chunks
	readStep = 256 << 10
	marks    = 1 << 10
)

// link is a host behind a network, in fake time: its RoundTripper answers range requests with bytes that tell their
// place, at the speeds that the test chooses.
type link struct {
	// speed is of the n-th answer, counted from 1, in bytes per second; 0 is silence. It is asked at every read.
	speed func(n int) float64
	// drip gives one byte at a read.
	drip bool
	// total bounds all answers together; 0 is no bound.
	total float64
	// status of the n-th answer with so many others under way; nil is 206 for all.
	status func(n, active int) int
	// wait is before the head of the n-th answer; nil is none.
	wait func(n int) time.Duration

	mu           sync.Mutex
	n            int   // guarded by mu
	active, most int   // guarded by mu
	served       int64 // guarded by mu
}

func (l *link) RoundTrip(req *http.Request) (*http.Response, error) {
	var first, last int64
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.n++
	n := l.n
	status := http.StatusPartialContent
	if l.status != nil {
		status = l.status(n, l.active)
	}
	if status == http.StatusPartialContent {
		l.active++
		l.most = max(l.most, l.active)
	}
	l.mu.Unlock()
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}
	if status != http.StatusPartialContent {
		return resp, nil
	}
	body := &linkBody{link: l, n: n, ctx: req.Context(), at: first, end: last + 1}
	if l.wait != nil {
		if err := sleep(req.Context(), l.wait(n)); err != nil {
			body.Close()
			return nil, err
		}
	}
	resp.ContentLength = last - first + 1
	resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", first, last))
	resp.Body = body
	return resp, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type linkBody struct {
	link    *link
	n       int
	ctx     context.Context
	at, end int64
	closed  sync.Once
}

func (b *linkBody) Read(p []byte) (int, error) {
	if b.at == b.end {
		return 0, io.EOF
	}
	n := min(int64(len(p)), b.end-b.at, readStep)
	if b.link.drip {
		n = 1
	}
	speed := b.link.speed(b.n)
	b.link.mu.Lock()
	if share := b.link.total / float64(b.link.active); share > 0 {
		speed = min(speed, share)
	}
	b.link.mu.Unlock()
	if speed == 0 {
		<-b.ctx.Done()
		return 0, context.Cause(b.ctx)
	}
	if err := sleep(b.ctx, time.Duration(float64(n)/speed*float64(time.Second))); err != nil {
		return 0, err
	}
	for i := -b.at & (marks - 1); i < n; i += marks {
		p[i] = byteAt(b.at + i)
	}
	b.at += n
	b.link.mu.Lock()
	b.link.served += n
	b.link.mu.Unlock()
	return int(n), nil
}

func (b *linkBody) Close() error {
	b.closed.Do(func() {
		b.link.mu.Lock()
		b.link.active--
		b.link.mu.Unlock()
	})
	return nil
}

// byteAt is what a byte must be that lies at a multiple of marks; the others are left alone, to be quick.
func byteAt(offset int64) byte { return byte(offset>>10 ^ offset>>18 ^ offset>>26 ^ 0x55) }

// onLinks makes a client whose registries are the links, by the names of the hosts; cfg may say more.
func onLinks(t *testing.T, cfg Config, links map[string]*link) *Client {
	t.Helper()
	cfg.Hosts = func(registry string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{{
			Client: &http.Client{Transport: links[registry]}, Host: registry, Scheme: "https", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}
	cfg.Log, cfg.UserAgent = slog.New(slog.DiscardHandler), "test/1"
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sourceOf(t *testing.T, c *Client, registry string) *Source {
	t.Helper()
	return repositoryOf(t, c, registry).Sources()[0]
}

func repositoryOf(t *testing.T, c *Client, registry string) *Repository {
	t.Helper()
	named, err := reference.ParseDockerRef(registry + "/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// part is the k-th chunk of a large blob.
func part(k int) Chunk {
	blob := ocispec.Descriptor{Digest: "sha256:test", Size: 1 << 50}
	return Chunk{Blob: blob, Offset: int64(k) * testSize, Length: testSize}
}

// fetchPart reads a chunk and checks that it is the right one.
func fetchPart(ctx context.Context, src *Source, c Chunk, buf []byte) error {
	body, err := src.Ranged(true, nil).FetchRange(ctx, c)
	if err != nil {
		return err
	}
	defer body.Close()
	clear(buf)
	if _, err := io.ReadFull(body, buf[:c.Length]); err != nil {
		return err
	}
	for i := int64(0); i < c.Length; i += marks {
		if buf[i] != byteAt(c.Offset+i) {
			return fmt.Errorf("%s: byte %d is another one", c, i)
		}
	}
	if n, err := body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("%s: %d bytes more, %w", c, n, err)
	}
	return nil
}

// load keeps callers at work, each with chunk after chunk, until the returned function is called, which tells how many
// chunks were fetched.
func load(t *testing.T, src *Source, callers int) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var mu sync.Mutex
	var next, done int
	for range callers {
		all.Go(func() {
			buf := make([]byte, testSize)
			for ctx.Err() == nil {
				mu.Lock()
				next++
				k := next
				mu.Unlock()
				err := fetchPart(ctx, src, part(k), buf)
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	return func() int { cancel(); all.Wait(); return done }
}

func always(speed float64) func(int) float64 { return func(int) float64 { return speed } }
