package fetch_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func newClient(t *testing.T, hosts docker.RegistryHosts) *fetch.Client {
	t.Helper()
	c, err := fetch.New(fetch.Config{Hosts: hosts, Log: prefetchtest.Logger(t), UserAgent: "test/1", Tries: 2})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func repository(t *testing.T, hosts docker.RegistryHosts, ref string) *fetch.Repository {
	t.Helper()
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newClient(t, hosts).Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func readAll(t *testing.T, f fetch.RangeFetcher, c fetch.Chunk) ([]byte, error) {
	t.Helper()
	body, err := f.FetchRange(t.Context(), c)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestRequestsAreContainerds compares our requests with those of containerd's own fetcher, field by field.
func TestRequestsAreContainerds(t *testing.T) {
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: prefetchtest.Build(t, 1, 10).Layers[0].Digest, Size: 10}
	manifest := layer
	manifest.MediaType = ocispec.MediaTypeImageManifest
	for name, tc := range map[string]struct {
		ref, path string
		desc      ocispec.Descriptor
		sameHost  bool
	}{
		"a mirror":                       {ref: "docker.io/library/nginx:1", path: "/v2", desc: layer},
		"a mirror with a Harbor project": {ref: "quay.io/a/b/c:1", path: "/v2/cache", desc: layer},
		"a manifest by a mirror":         {ref: "quay.io/a/b:1", path: "/v2", desc: manifest},
		"a registry with a port":         {ref: "registry.example.com:8443/a:1", path: "/v2", desc: layer},
		"the registry itself":            {ref: "SELF/a/b:1", path: "/v2", desc: layer, sameHost: true},
		"a mirror without a path":        {ref: "quay.io/a/b:1", path: "", desc: layer},
	} {
		t.Run(name, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			ref := strings.Replace(tc.ref, "SELF", reg.Host(), 1)
			hosts := func(string) ([]docker.RegistryHost, error) {
				h := reg.RegistryHost()
				h.Path, h.Header = tc.path, http.Header{"X-Key": {"one", "two"}}
				return []docker.RegistryHost{h}, nil
			}
			fetcher, err := docker.NewResolver(docker.ResolverOptions{Hosts: hosts}).Fetcher(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if rc, err := fetcher.Fetch(t.Context(), tc.desc); err == nil {
				_, _ = io.ReadAll(rc) // there is nothing; only the request counts
				rc.Close()
			}
			if _, err := readAll(t, repository(t, hosts, ref).Sources()[0].Whole(true, nil), fetch.Chunk{Blob: tc.desc, Length: 10}); err == nil {
				t.Error("something was fetched from an empty registry")
			}
			got := reg.Requests()
			if len(got) != 2 {
				t.Fatalf("requests: %+v", got)
			}
			for _, r := range got {
				r.Header.Del("User-Agent")      // says who we are
				r.Header.Del("Accept-Encoding") // see endpoint.send
			}
			if d := cmp.Diff(got[0], got[1]); d != "" {
				t.Errorf("containerd asks otherwise (-containerd +hotplate):\n%s", d)
			}
			if hasNamespace := strings.Contains(got[0].Query, "ns="); hasNamespace == tc.sameHost {
				t.Errorf("query %q", got[0].Query)
			}
		})
	}
}

func TestAHostThatDeniesAValidRangeIsAskedInOneStream(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 1, 1000)
	ref := reg.Push(img, "a", "1")
	denies := func(r *http.Request, _ int) bool { return r.Header.Get("Range") != "" }
	reg.Script(prefetchtest.On(denies, prefetchtest.Status(http.StatusRequestedRangeNotSatisfiable)))
	src := repository(t, prefetchtest.Hosts(reg), ref).Sources()[0]
	chunk := fetch.Chunk{Blob: img.Layers[0], Offset: 10, Length: 100}

	_, err := readAll(t, src.Ranged(true, nil), chunk)
	if !errors.Is(err, fetch.ErrRangeIgnored) || !strings.Contains(err.Error(), "416") || len(reg.Requests()) != 1 {
		t.Errorf("%v after %d requests, want %v after one", err, len(reg.Requests()), fetch.ErrRangeIgnored)
	}
	if err := src.Failed("ask", err); src.Ranges() || !strings.Contains(err.Error(), "416") {
		t.Errorf("ranges are still asked for after %v", err)
	}
	if data, err := readAll(t, src.Whole(true, nil), chunk); err != nil || len(data) != 100 {
		t.Errorf("%d bytes in one stream: %v", len(data), err)
	}
	reg.Script(prefetchtest.On(prefetchtest.Layers, prefetchtest.Status(http.StatusRequestedRangeNotSatisfiable)))
	if _, err := readAll(t, src.Whole(true, nil), chunk); err == nil || errors.Is(err, fetch.ErrRangeIgnored) {
		t.Errorf("416 for everything: %v, want an error of the host", err)
	}
}

func TestAnExpiredTokenIsRefreshedOnceForAll(t *testing.T) {
	for name, explain := range map[string]bool{"with a word": true, "without a word": false} {
		t.Run(name, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			img := prefetchtest.Build(t, 2, 50_000)
			ref := reg.Push(img, "a", "v1")
			// The first token is worn out by one request; the second is good for the rest.
			reg.RequireTokens(1, explain)
			src := repository(t, prefetchtest.Hosts(reg), ref).Sources()[0]
			c := fetch.Chunk{Blob: img.Layers[0], Length: 1000}
			if _, err := readAll(t, src.Ranged(true, nil), c); err != nil {
				t.Fatal(err)
			}
			reg.ExtendTokens(1000)
			var all sync.WaitGroup
			for i := range int64(8) {
				all.Go(func() {
					c := c
					c.Offset = i * 1000
					if _, err := readAll(t, src.Ranged(true, nil), c); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if n := reg.TokensIssued(); n != 2 {
				t.Errorf("%d tokens were asked for, want 2", n)
			}
		})
	}
}

func TestAFailedTokenRequestIsNotRemembered(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 3, 50_000)
	ref := reg.Push(img, "a", "v1")
	reg.RequireTokens(1000, true)
	reg.Script(prefetchtest.On(func(r *http.Request, n int) bool { return r.URL.Path == "/token" && n == 1 },
		prefetchtest.Status(http.StatusServiceUnavailable)))
	src := repository(t, prefetchtest.Hosts(reg), ref).Sources()[0]
	if _, err := readAll(t, src.Ranged(true, nil), fetch.Chunk{Blob: img.Layers[0], Length: 1000}); err != nil {
		t.Error(err)
	}
}

// TestACutReplyIsAskedForAgain where it is containerd that reads it.
func TestACutReplyIsAskedForAgain(t *testing.T) {
	manifest := func(r *http.Request, n int) bool { return r.Method == http.MethodGet && prefetchtest.Manifests(r, n) }
	for name, cut := range map[string]func(*http.Request, int) bool{"a token": tokens, "a manifest": manifest} {
		t.Run(name, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			img := prefetchtest.Build(t, 14, 50_000)
			ref := reg.Push(img, "a", "v1")
			reg.RequireTokens(1000, true)
			once := prefetchtest.Once(cut)
			reg.Script(func(r *http.Request, n int, a *prefetchtest.Answer) {
				a.Header.Del("Docker-Content-Digest")
				if a.Status == http.StatusOK && once(r, n) {
					prefetchtest.Cut(5)(a)
				}
			})
			repo := repository(t, prefetchtest.Hosts(reg), ref)
			if _, err := readAll(t, repo.Sources()[0].Ranged(true, nil), fetch.Chunk{Blob: img.Layers[0], Length: 1000}); err != nil {
				t.Error(err)
			}
			if desc, _, err := repo.Resolve(t.Context()); err != nil || desc.Digest != img.Target.Digest {
				t.Errorf("%+v, %v", desc, err)
			}
		})
	}
}

func TestWrongCredentialsSayWhatToDo(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	ref := reg.Push(prefetchtest.Build(t, 4, 10), "a", "v1")
	reg.RequireTokens(1000, true)
	hosts := func(string) ([]docker.RegistryHost, error) {
		h := reg.RegistryHost()
		h.Authorizer = docker.NewDockerAuthorizer(docker.WithAuthClient(h.Client),
			docker.WithAuthCreds(func(string) (string, string, error) { return "someone", "the-secret", nil }))
		return []docker.RegistryHost{h}, nil
	}
	_, _, err := repository(t, hosts, ref).Resolve(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"get a token from " + reg.URL() + "/token: ", "401", "check the credentials", ref} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "the-secret") {
		t.Errorf("the error has the secret in it: %v", err)
	}
}

func TestResolveTellsWhichHostAnswered(t *testing.T) {
	first, second := prefetchtest.NewRegistry(t), prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 5, 10)
	second.Push(img, "a", "v1")
	r := repository(t, prefetchtest.Hosts(first, second), "example.com/a:v1")
	desc, host, err := r.Resolve(t.Context())
	if err != nil || host != second.Host() || desc.Digest != img.Target.Digest || desc.Size != img.Target.Size {
		t.Errorf("%+v from %s, %v", desc, host, err)
	}
}

func TestResolveDoesNotWaitForAHostThatIsHeldWhereThereIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held, other := prefetchtest.NewOfflineRegistry("held.example.com"), prefetchtest.NewOfflineRegistry("other.example.com")
		held.Script(prefetchtest.On(prefetchtest.Manifests, prefetchtest.Status(http.StatusTooManyRequests, "Retry-After", "60")))
		other.Push(prefetchtest.Build(t, 15, 10), "a", "v1")
		start := time.Now()
		_, host, err := repository(t, prefetchtest.Hosts(held, other), "example.com/a:v1").Resolve(t.Context())
		if took := time.Since(start); err != nil || host != other.Host() || took > time.Second || len(held.Requests()) != 1 {
			t.Errorf("%s answered after %s and %d requests to the first, %v", host, took, len(held.Requests()), err)
		}
	})
}

func TestAMirrorThatMayNotResolveIsAskedForBlobsOnly(t *testing.T) {
	mirror, server := prefetchtest.NewRegistry(t), prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 6, 10)
	mirror.Push(img, "a", "v1")
	server.Push(img, "a", "v1")
	r := repository(t, func(string) ([]docker.RegistryHost, error) {
		h := mirror.RegistryHost()
		h.Capabilities = docker.HostCapabilityPull
		return []docker.RegistryHost{h, server.RegistryHost()}, nil
	}, "example.com/a:v1")
	desc, host, err := r.Resolve(t.Context())
	if err != nil || host != server.Host() {
		t.Fatalf("resolved by %s, %v", host, err)
	}
	if _, err := r.Get(t.Context(), desc, 1<<20); err != nil {
		t.Fatal(err)
	}
	if n := len(mirror.Requests()); n != 1 {
		t.Errorf("%d requests to the mirror: %+v", n, mirror.Requests())
	}
}

func TestGetRefusesWhatIsNotAsDescribed(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 7, 10)
	ref := reg.Push(img, "a", "v1")
	r := repository(t, prefetchtest.Hosts(reg), ref)
	if _, err := r.Get(t.Context(), img.Manifest, img.Manifest.Size-1); err == nil {
		t.Error("a manifest larger than the limit was fetched")
	}
	for name, f := range map[string]prefetchtest.Fault{
		"wrong content": prefetchtest.Flip, "another size": prefetchtest.OtherTotal,
		"encoded": func(a *prefetchtest.Answer) { a.Header.Set("Content-Encoding", "br") },
	} {
		reg.Script(prefetchtest.On(prefetchtest.Manifests, f))
		_, err := r.Get(t.Context(), img.Manifest, 1<<20)
		if err == nil || !strings.Contains(err.Error(), img.Manifest.Digest.String()) || !strings.Contains(err.Error(), reg.Host()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNoImageIsRefused(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 8, 10)
	for name, tc := range map[string]struct{ mediaType, want string }{
		"schema 1":  {"application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"},
		"something": {"text/html", "no container image"},
	} {
		img.Target.MediaType, img.Manifest.MediaType = tc.mediaType, tc.mediaType
		ref := reg.Push(img, "a", "v1")
		if _, _, err := repository(t, prefetchtest.Hosts(reg), ref).Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hostsDir writes a certs.d with one host directory.
func hostsDir(t *testing.T, registry, toml string, files map[string][]byte) string {
	t.Helper()
	root := t.TempDir()
	addHosts(t, root, registry, toml, files)
	return root
}

// addHosts writes a host directory into a certs.d.
func addHosts(t *testing.T, root, registry, toml string, files map[string][]byte) {
	t.Helper()
	dir := filepath.Join(root, registry)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{"hosts.toml": []byte(toml)}
	maps.Copy(all, files)
	for name, data := range all {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostsReadsCertsD(t *testing.T) {
	reg := prefetchtest.NewTLSRegistry(t)
	img := prefetchtest.Build(t, 9, 10)
	reg.Push(img, "project/a", "v1")
	reg.RequireTokens(1000, true)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: reg.Server().Certificate().Raw})
	toml := fmt.Sprintf("server = %[1]q\noverride_path = true\nca = \"ca.pem\"\n[host.%[1]q]\n"+
		"capabilities = [\"pull\", \"resolve\"]\noverride_path = true\nca = \"ca.pem\"\n", reg.URL()+"/v2/project")
	dir := hostsDir(t, "registry.example.com", toml, map[string][]byte{"ca.pem": ca})
	var asked []string
	hosts := fetch.Hosts(dir, "test/1", func(_, host string) (string, string, error) {
		asked = append(asked, host)
		return prefetchtest.User, prefetchtest.Password, nil
	})
	r := repository(t, hosts, "registry.example.com/a:v1")
	desc, _, err := r.Resolve(t.Context())
	if err != nil || desc.Digest != img.Target.Digest {
		t.Fatalf("%+v, %v", desc, err)
	}
	if len(asked) == 0 || asked[0] != reg.Host() {
		t.Errorf("credentials were asked for %q, want %s", asked, reg.Host())
	}
	for _, req := range reg.Requests() {
		if ua := req.Header.Get("User-Agent"); ua != "test/1" {
			t.Errorf("%s has the User-Agent %q", req.Path, ua)
		}
	}
	// The same without the CA: an error with its cause and the next step.
	if err := os.WriteFile(filepath.Join(dir, "registry.example.com", "hosts.toml"),
		[]byte(strings.ReplaceAll(toml, "ca = \"ca.pem\"\n", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = repository(t, hosts, "registry.example.com/a:v1").Resolve(t.Context())
	if err == nil || !strings.Contains(err.Error(), "x509") || !strings.Contains(err.Error(), "configure the CA") {
		t.Errorf("without the CA: %v", err)
	}
}

func TestRegistriesOnOneHostHaveTheirOwnCredentials(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 11, 10)
	reg.RequireTokens(1000, true)
	root := t.TempDir()
	for _, project := range []string{"one", "two"} {
		reg.Push(img, project+"/a", "v1")
		addHosts(t, root, project+".example.com",
			fmt.Sprintf("server = %q\noverride_path = true\n", reg.URL()+"/v2/"+project), nil)
	}
	hosts := fetch.Hosts(root, "test/1", func(registry, host string) (string, string, error) {
		if host != reg.Host() {
			t.Errorf("credentials for %s at %s were asked for, want at %s", registry, host, reg.Host())
		}
		if registry == "one.example.com" {
			return prefetchtest.User, prefetchtest.Password, nil
		}
		return "other", "other", nil
	})
	if _, _, err := repository(t, hosts, "one.example.com/a:v1").Resolve(t.Context()); err != nil {
		t.Errorf("with the right credentials: %v", err)
	}
	if _, _, err := repository(t, hosts, "two.example.com/a:v1").Resolve(t.Context()); err == nil {
		t.Error("the second registry was asked with the credentials of the first")
	}
}

func TestAHostThatIsItsOwnMirrorIsAskedOnce(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	for toml, want := range map[string]int{
		"server = %[1]q\n[host.%[1]q]\n":                                  1, // may do everything
		"server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\"]\n":       2, // may do less
		"server = \"%[1]s/v2/other\"\noverride_path = true\n[host.%[1]q]": 2, // another path
	} {
		dir := hostsDir(t, "registry.example.com", fmt.Sprintf(toml, reg.URL()), nil)
		r := repository(t, fetch.Hosts(dir, "test/1", nil), "registry.example.com/a:v1")
		if got := len(r.Sources()); got != want {
			t.Errorf("%d sources, want %d:\n%s", got, want, toml)
		}
	}
	// As hotplate writes it for a mirror beside which nothing may be asked.
	toml := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n", reg.URL())
	dir := hostsDir(t, "registry.example.com", toml, nil)
	_, _, err := repository(t, fetch.Hosts(dir, "test/1", nil), "registry.example.com/a:v1").Resolve(t.Context())
	if err == nil || strings.Count(err.Error(), "404") != 1 {
		t.Errorf("the error tells of one host more than once: %v", err)
	}
}

func TestHostsThatCannotBeReadAreAnError(t *testing.T) {
	named, err := reference.ParseDockerRef("registry.example.com/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	dir := hostsDir(t, "registry.example.com", "server = \"https://a.example.com\"\nca = \"missing.pem\"\n[host.\"https://b.example.com\"]\n", map[string][]byte{})
	if _, err := newClient(t, fetch.Hosts(dir, "test/1", nil)).Repository(named); err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("a missing CA: %v", err)
	}
	none := func(string) ([]docker.RegistryHost, error) { return nil, nil }
	if _, err := newClient(t, none).Repository(named); err == nil || !strings.Contains(err.Error(), "registry.example.com") {
		t.Errorf("no hosts: %v", err)
	}
	why := errors.New("why")
	if _, err := newClient(t, func(string) ([]docker.RegistryHost, error) { return nil, why }).Repository(named); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestAHostThatIsDownIsAskedLast(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	reg.Push(prefetchtest.Build(t, 10, 10), "a", "v1")
	dead := reg.RegistryHost()
	dead.Host = prefetchtest.UnusedHost(t)
	r := repository(t, func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{dead, reg.RegistryHost()}, nil
	}, "example.com/a:v1")
	if first := r.Sources()[0].Name(); first != dead.Host {
		t.Errorf("%s is first before anything is known", first)
	}
	if _, _, err := r.Resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	sources := r.Sources()
	if first := sources[0].Name(); first != reg.Host() {
		t.Errorf("%s is first", first)
	}
	if !fetch.Patient(sources, 0) || fetch.Patient(sources, 1) {
		t.Error("patience is for the host that answers")
	}
	if err := sources[0].Failed("test", &fetch.StatusError{Code: 503}); err == nil || !fetch.Patient(sources, 1) {
		t.Errorf("with all hosts down there is no patience: %v", err)
	}
}
