//go:build e2e

package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// inK8s is the context of CRI's namespace.
func inK8s(t *testing.T) context.Context {
	return namespaces.WithNamespace(t.Context(), store.DefaultNamespace)
}

// TestThroughCertsD is the whole way on real parts: a registry with TLS from a private CA and passwords, images below a
// project, a hosts directory, credentials.
func TestThroughCertsD(t *testing.T) {
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	reg := rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key, Users: map[string]string{"robot": "right"}})
	img, err := rig.BuildModelImage(rig.ModelSpec{Seed: 1, RawSize: 40 << 20, ShardSize: 8 << 20, GzipLayers: 2, GzipSize: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := rig.Push(t.Context(), reg.Host()+"/project/models/m:v1", img,
		rig.PushOptions{CA: ca.PEM(), Username: "robot", Password: "right"})
	if err != nil {
		t.Fatal(err)
	}
	hosts := t.TempDir()
	rigtest.Mirror{Host: "registry.invalid", URL: reg.URL(), Path: "project", CA: ca.PEM()}.Write(t, hosts)
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		password := "wrong"
		creds := func(registry, host string) (string, string, error) {
			if registry != "registry.invalid" || host != reg.Host() {
				return "", "", fmt.Errorf("credentials for %s at %s were asked for", registry, host)
			}
			return "robot", password, nil
		}
		p, err := prefetch.New(prefetch.Config{
			Hosts: prefetch.Hosts(hosts, creds), Store: storeOf(d)(t), Log: prefetchtest.Logger(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		want := prefetch.Image{Ref: "registry.invalid/models/m:v1", Aliases: []string{"m:latest"}, Pin: true}
		_, err = p.Ensure(t.Context(), want, nil)
		if err == nil || !strings.Contains(err.Error(), "check the credentials for "+reg.Host()) || strings.Contains(err.Error(), password) {
			t.Errorf("wrong credentials: %v", err)
		}
		password = "right"
		res, err := p.Ensure(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.Digest != manifest || res.Pinned != res.PinSupported {
			t.Errorf("%+v, want digest %s", res, manifest)
		}
		status, err := rigtest.CRI(t, d).ImageStatus(t.Context(), "m:latest")
		if err != nil || status.GetId() != res.ConfigDigest || status.GetPinned() != res.Pinned {
			t.Errorf("CRI says %v, %v", status, err)
		}
		checkNothingLeft(t, d)
	})
}

// daemonFor starts a daemon that reads a certs.d in which reg is a mirror of registry.invalid.
func daemonFor(t *testing.T, line string, reg *prefetchtest.Registry) *rig.Containerd {
	t.Helper()
	hosts := t.TempDir()
	dir := filepath.Join(hosts, "registry.invalid")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n", reg.URL())
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	return rigtest.Containerd(t, rig.ContainerdConfig{Line: line, HostsDir: hosts})
}

// backAgain waits for the daemon.
func backAgain(ctx context.Context, s prefetch.Store) error { return s.(*store.Store).Back(ctx) }

// trace is what a pull leaves in containerd, as far as it does not depend on the time.
type trace struct {
	Images  map[string]images.Image
	Content map[string]map[string]string // labels by digest
}

func traceOf(t *testing.T, c *client.Client) trace {
	t.Helper()
	out := trace{Images: map[string]images.Image{}, Content: map[string]map[string]string{}}
	list, err := c.ImageService().List(inK8s(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range list {
		img.CreatedAt, img.UpdatedAt = time.Time{}, time.Time{}
		out.Images[img.Name] = img
	}
	err = c.ContentStore().Walk(inK8s(t), func(info content.Info) error {
		labels := maps.Clone(info.Labels)
		maps.DeleteFunc(labels, func(k, _ string) bool { return k == "containerd.io/gc.root" })
		out.Content[info.Digest.String()] = labels
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLeavesWhatContainerdsOwnPullLeaves compares image records, labels and content with those of a pull by CRI of the
// same image into another daemon of the same line.
func TestLeavesWhatContainerdsOwnPullLeaves(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		for name, img := range map[string]*prefetchtest.Image{
			"image": prefetchtest.Build(t, 1, 100_000, 50_000), "index": prefetchtest.BuildIndex(t, 2, 100_000, 50_000),
		} {
			t.Run(line+" "+name, func(t *testing.T) {
				reg := prefetchtest.NewRegistry(t)
				reg.Push(img, "models/m", "v1")
				const ref = "registry.invalid/models/m:v1"
				theirs, ours := daemonFor(t, line, reg), daemonFor(t, line, reg)
				if _, err := rigtest.CRI(t, theirs).PullImage(t.Context(), ref, nil); err != nil {
					t.Fatal(err)
				}
				p := prefetchtest.NewPrefetcher(t, storeOf(ours)(t), prefetchtest.Hosts(reg))
				if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
					t.Fatal(err)
				}
				want := traceOf(t, connect(t, theirs))
				// CRI labels records that it did not make by an event, one after the other.
				deadline := time.Now().Add(20 * time.Second)
				for d := " "; d != ""; time.Sleep(10 * time.Millisecond) {
					if d = cmp.Diff(want, traceOf(t, connect(t, ours))); d != "" && time.Now().After(deadline) {
						t.Fatalf("we leave something else (-CRI +hotplate):\n%s", d)
					}
				}
			})
		}
	}
}

// TestTogetherWithThePullOfAPod holds a pull by CRI in the middle of a layer, begins ours, and lets go.
func TestTogetherWithThePullOfAPod(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			img := prefetchtest.Build(t, 3, 300_000)
			reg.Push(img, "models/m", "v1")
			const ref = "registry.invalid/models/m:v1"
			d := daemonFor(t, line, reg)
			layer := prefetchtest.Blob(img.Layers[0].Digest.String())
			arrived, release := make(chan struct{}), make(chan struct{})
			reg.Script(prefetchtest.On(prefetchtest.Once(layer), func(a *prefetchtest.Answer) {
				a.Hold = release
				close(arrived)
			}))
			cri, pulled := rigtest.CRI(t, d), make(chan error, 1)
			go func() {
				_, err := cri.PullImage(t.Context(), ref, nil)
				pulled <- err
			}()
			<-arrived
			p := prefetchtest.NewPrefetcher(t, storeOf(d)(t), prefetchtest.Hosts(reg))
			var pr prefetch.Progress
			ensured := make(chan error, 1)
			go func() {
				_, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref, Pin: true}, &pr)
				ensured <- err
			}()
			waiting := func() bool {
				l := pr.Snapshot().Layers
				return len(l) > 0 && strings.Contains(l[0].WaitingFor, "another pull")
			}
			for deadline := time.Now().Add(20 * time.Second); !waiting(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("ours does not wait: %+v", pr.Snapshot())
				}
			}
			close(release)
			if err := <-pulled; err != nil {
				t.Errorf("the pull by CRI: %v", err)
			}
			if err := <-ensured; err != nil {
				t.Errorf("ours: %v", err)
			}
			asked := 0
			for _, r := range reg.Requests() {
				if r.Method == http.MethodGet && strings.HasSuffix(r.Path, img.Layers[0].Digest.String()) {
					asked++
				}
			}
			if asked != 1 {
				t.Errorf("the layer was asked for %d times", asked)
			}
		})
	}
}

// TestAPullByCRIAfterwardsFetchesNothing also shows that the pin survives it.
func TestAPullByCRIAfterwardsFetchesNothing(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			reg.Push(prefetchtest.Build(t, 4, 300_000), "models/m", "v1")
			d := daemonFor(t, line, reg)
			want := prefetch.Image{Ref: "registry.invalid/models/m:v1", Pin: true}
			p := prefetchtest.NewPrefetcher(t, storeOf(d)(t), prefetchtest.Hosts(reg))
			res, err := p.Ensure(t.Context(), want, nil)
			if err != nil {
				t.Fatal(err)
			}
			reg.Reset()
			if _, err := rigtest.CRI(t, d).PullImage(t.Context(), want.Ref, nil); err != nil {
				t.Fatal(err)
			}
			if n := len(reg.Requests()); n != 1 {
				t.Errorf("%d requests: %+v", n, reg.Requests())
			}
			if _, ok, err := p.Check(t.Context(), want, res.Digest); !ok || err != nil {
				t.Errorf("Check says %v, %v", ok, err)
			}
		})
	}
}

func TestAPinOfSomeoneElseIsLeft(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		reg := prefetchtest.NewRegistry(t)
		img := prefetchtest.Build(t, 5, 1000)
		want := prefetch.Image{Ref: reg.Push(img, "models/m", "v1")}
		p := prefetchtest.NewPrefetcher(t, storeOf(d)(t), prefetchtest.Hosts(reg))
		res, err := p.Ensure(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !res.PinSupported {
			return
		}
		const label = "io.cri-containerd.pinned"
		service := connect(t, d).ImageService()
		_, err = service.Update(inK8s(t), images.Image{
			Name: res.ConfigDigest, Labels: map[string]string{label: "pinned"},
		}, "labels."+label)
		if err != nil {
			t.Fatal(err)
		}
		want.Pin = true
		if _, err := p.Ensure(t.Context(), want, nil); err != nil {
			t.Fatal(err)
		}
		if pins, err := p.Pins(t.Context()); err != nil || len(pins) > 0 {
			t.Errorf("their pin is taken for ours: %v, %v", pins, err)
		}
		if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil {
			t.Fatal(err)
		}
		record, err := service.Get(inK8s(t), res.ConfigDigest)
		if err != nil || record.Labels[label] != "pinned" {
			t.Errorf("their pin is gone: %v, %v", record.Labels, err)
		}
	})
}

// openLarge opens a session of a store that continues layers of up to 1000 bytes.
func openLarge(t *testing.T, d *rig.Containerd) prefetch.Session {
	t.Helper()
	s, err := store.New(store.Config{Address: d.Address(), Log: prefetchtest.Logger(t), MaxResume: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	session, err := s.Open(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Close(context.WithoutCancel(t.Context()), false); err != nil {
			t.Errorf("close the session: %v", err)
		}
	})
	return session
}

func TestALargePartialLayerIsFetchedAnew(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		session, layer := openLarge(t, d), prefetchtest.Build(t, 6, 100_000).Layers[0]
		open := func() int64 {
			t.Helper()
			w, err := session.Blob(t.Context(), layer, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			offset := w.Offset()
			if _, err := w.Write(make([]byte, 700)); err != nil {
				t.Fatal(err)
			}
			return offset
		}
		if first, second := open(), open(); first != 0 || second != 700 {
			t.Errorf("a small one was opened at %d and %d", first, second)
		}
		if got := open(); got != 0 {
			t.Errorf("a large one was opened at %d", got)
		}
	})
}

// TestALargePartialLayerOfAnotherPullIsLeft has one that a pull has open and has written nothing to for an hour: its
// registry stalls, or containerd hashes what was there.
func TestALargePartialLayerOfAnotherPullIsLeft(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		session, img, ingests := openLarge(t, d), prefetchtest.Build(t, 53, 100_000), connect(t, d).ContentStore()
		layer, ctx := img.Layers[0], inK8s(t)
		ref := remotes.MakeRefKey(ctx, layer)
		w, err := ingests.Writer(ctx, content.WithRef(ref), content.WithDescriptor(layer))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write(img.Blobs[layer.Digest][:50_000]); err != nil {
			t.Fatal(err)
		}
		age(t, filepath.Join(d.Root(), "io.containerd.content.v1.content/ingest"), time.Hour)
		if st, err := ingests.Status(ctx, ref); err != nil || time.Since(st.UpdatedAt) < time.Hour {
			t.Fatalf("%+v, %v; want it old", st, err)
		}
		waiting, opened := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := session.Blob(t.Context(), layer, func() { close(waiting) })
			opened <- err
		}()
		select {
		case <-waiting:
		case err := <-opened:
			t.Fatalf("it was not waited for: %v", err)
		}
		if _, err := w.Write(img.Blobs[layer.Digest][50_000:]); err != nil {
			t.Error(err)
		}
		if err := w.Commit(ctx, layer.Size, layer.Digest); err != nil {
			t.Errorf("the other pull: %v", err)
		}
		if err := <-opened; !errors.Is(err, prefetch.ErrPresent) {
			t.Errorf("%v, want ErrPresent", err)
		}
	})
}

// age makes ingests look as if nothing had been written to them for so long.
func age(t *testing.T, ingests string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	text, err := then.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(ingests)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		path := filepath.Join(ingests, dir.Name())
		if err := os.Chtimes(filepath.Join(path, "data"), then, then); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "updatedat"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestARestartOfContainerdIsAPause kills the daemon in the middle of a layer. What is staged is not fetched again.
func TestARestartOfContainerdIsAPause(t *testing.T) {
	for name, way := range ways() {
		for _, line := range rigtest.Lines(t) {
			t.Run(name+"/"+line, func(t *testing.T) {
				reg := prefetchtest.NewRegistry(t)
				img := prefetchtest.Build(t, 7, 20*prefetchtest.Chunk, 10*prefetchtest.Chunk)
				want := prefetch.Image{Ref: reg.Push(img, "models/m", "v1"), Pin: true}
				d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line})
				s := prefetchtest.Configured{Store: storeOf(d)(t), Configure: func(c *prefetch.Config) { way(t, c) }}
				p := prefetchtest.NewPrefetcher(t, s, prefetchtest.Hosts(reg))
				arrived, release := make(chan struct{}), make(chan struct{})
				reg.Script(prefetchtest.On(prefetchtest.Once(func(r *http.Request, n int) bool {
					return n > 10 && prefetchtest.Layers(r, n)
				}), func(a *prefetchtest.Answer) { a.Hold = release; close(arrived) }))
				var res prefetch.Result
				ensured := make(chan error, 1)
				go func() {
					var err error
					res, err = p.Ensure(t.Context(), want, nil)
					ensured <- err
				}()
				<-arrived
				if err := d.Kill(); err != nil {
					t.Fatal(err)
				}
				close(release)
				if err := d.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-ensured; err != nil {
					t.Fatal(err)
				}
				all := img.Size() + img.Manifest.Size + img.Config.Size
				const inFlight = 4 * prefetchtest.Chunk // as many as NewPrefetcher has requests
				if res.BytesFetched > all+inFlight && name != unstaged && name != notKept {
					t.Errorf("%d bytes were fetched for %d", res.BytesFetched, all)
				}
				t.Logf("%d bytes were fetched for %d", res.BytesFetched, all)
				checkNothingLeft(t, d)
			})
		}
	}
}
