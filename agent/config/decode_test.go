package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each testdata/invalid-*.yaml has its faults beside it, as a person reads them.
func TestDecodeReportsEveryFault(t *testing.T) {
	documents, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, document := range documents {
		name := strings.TrimSuffix(filepath.Base(document), ".yaml")
		t.Run(name, func(t *testing.T) {
			data := read(t, document)
			cfg, err := Decode(name+".yaml", data)
			if err == nil {
				t.Fatal("the document has no faults")
			}
			if cfg != nil {
				t.Error("there is a config beside the faults")
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(read(t, golden)), err.Error()+"\n"); diff != "" {
				t.Errorf("faults differ from %s (-want +got):\n%s", golden, diff)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a fault shows a secret")
			}
			checkFaults(t, name+".yaml", data, err)
		})
	}
}

// checkFaults checks what holds for the faults of every document.
func checkFaults(t *testing.T, name string, data []byte, err error) {
	t.Helper()
	faults, ok := errors.AsType[Faults](fmt.Errorf("wrapped: %w", err))
	if !ok || len(faults) == 0 {
		t.Fatalf("the error is not Faults: %T", err)
	}
	if len(faults) > maxFaults+1 {
		t.Errorf("%d faults are reported, more than the bound", len(faults))
	}
	last, lines := 1, strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+1
	for _, f := range faults {
		if f.Line < last || f.Line > lines+1 {
			t.Errorf("line %d of %d follows line %d: %s", f.Line, lines, last, f)
		}
		last = f.Line
		if f.File != name || f.Message == "" || strings.ContainsAny(f.String(), "\n\r\x00") {
			t.Errorf("not a line for people: %q", f)
		}
	}
}

func TestDecodeReadsEveryField(t *testing.T) {
	got, err := Decode("full.yaml", read(t, "testdata/valid-full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	basic := []Capability{Pull, Resolve}
	want := &Config{
		APIVersion: APIVersion,
		Registries: []Registry{
			{
				Host: "docker.io",
				Mirrors: []Mirror{
					{
						URL:          "https://harbor.example.com",
						Path:         "docker-hub/proxy",
						Capabilities: []Capability{Pull, Resolve, Push, Referrers},
						TLS:          TLS{CA: []string{"corp"}, ClientCert: "node"},
						Headers:      map[string][]string{"X-Team": {"models", "serving"}},
						Credentials:  "robot",
						ExposeToNode: true,
						DialTimeout:  Duration(90 * time.Second),
					},
					{URL: "http://127.0.0.1:5000", Capabilities: basic, DialTimeout: Duration(time.Second / 2)},
				},
				Upstream:    Allow,
				TLS:         TLS{CA: []string{"corp", "lab"}, ClientCert: "node", SkipVerify: true},
				Credentials: "hub",
				Adopt:       true,
			},
			{Host: "[fd00::1]:5000", Upstream: Allow, TLS: TLS{CA: []string{"lab"}}},
			{
				Host:     "registry.example.com:8443",
				Mirrors:  []Mirror{{URL: "https://[fd00::2]:443", Capabilities: basic, DialTimeout: defaultDialTimeout}},
				Upstream: Deny,
			},
			{
				Host:        "_default",
				Mirrors:     []Mirror{{URL: "https://harbor.example.com", Capabilities: basic, DialTimeout: defaultDialTimeout}},
				Upstream:    Allow,
				Credentials: "hub",
			},
		},
		Certs: Certs{
			Bundles: []BundleSource{
				{Name: "corp", File: "/etc/hotplate/corp.pem"},
				{Name: "lab", Dir: "/etc/hotplate/lab"},
				{Name: "cluster", ConfigMap: &ObjectRef{Name: "corp-ca"}, Secret: &ObjectRef{Name: "lab.ca-2", Key: "ca.crt"}},
			},
			KeyPairs: []KeyPairSource{{Name: "node", CertFile: "/etc/hotplate/tls.crt", KeyFile: "/etc/hotplate/tls.key"},
				{Name: "cluster", Secret: "node-tls"}},
		},
		Credentials: []Credential{
			{Name: "robot", UsernameFile: "/etc/hotplate/robot/username", PasswordFile: "/etc/hotplate/robot/password"},
			{Name: "hub", DockerConfigFile: "/etc/hotplate/hub.json"},
			{Name: "cluster", Secret: "robot"},
		},
		Images: []Image{
			{
				Name:         "llama",
				Ref:          "harbor.example.com/models/llama:v1",
				Aliases:      []string{"registry.example.com:8443/models/llama:v1"},
				Platform:     "linux/amd64",
				Priority:     -5,
				Pin:          new(false),
				NodeSelector: map[string]string{"gpu": "", "example.com/gpu": "H100_80GB"},
			},
			{
				Name: "base",
				Ref:  "busybox@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
				Pin:  new(true),
			},
		},
		Prefetch: Prefetch{MaxParallel: 16, MaxImages: 3, Memory: Gi, MaxBandwidth: 100 * Mi, KeepLayers: KeepNever, Way: WayAPI,
			DiskReserve: new(Percent(0)), MaxPinned: 500 * Gi, LowPriority: true, WhenUnwanted: Delete},
		Restart: Restart{
			Policy:     RestartNever,
			Window:     &Window{TimeZone: "Europe/Berlin", Days: []Day{"Fri", "Sat"}, Start: 22*60 + 30, End: 4 * 60},
			Soak:       Duration(2 * time.Minute),
			Dependants: []string{"app.service", "app@1.service"}, ConvertMirrors: true, WithoutRescue: true,
		},
		Cluster: Cluster{MaxUnavailable: 3, MaxConcurrentNodes: 10000, ResolveInterval: Duration(30 * time.Second),
			PauseRestarts: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
	roundTrip(t, got)
}

// roundTrip checks that a config which is written out and read again is the same.
func roundTrip(t *testing.T, cfg *Config) {
	t.Helper()
	text, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode("again.yaml", text)
	if err != nil {
		t.Fatalf("what was written out has faults: %v\n%s", err, text)
	}
	if diff := cmp.Diff(cfg, again); diff != "" {
		t.Errorf("config differs after a round trip (-want +got):\n%s", diff)
	}
	if Hash(cfg) != Hash(again) {
		t.Error("the hash differs after a round trip")
	}
}

func TestDecodeSetsDefaults(t *testing.T) {
	text := document(`
registries:
  - host: a.example.com
    tls: {skipVerify: true}
  - host: b.example.com
    upstream: Deny
    mirrors: [{url: "https://harbor.example.com"}]
images: [{name: a, ref: example.com/a}]
credentials:
certs: ~
prefetch: {}
restart: {window: {start: 22:00, end: 00:00}}
`)
	got, err := Decode("f", text)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		APIVersion: APIVersion,
		Registries: []Registry{
			{Host: "a.example.com", Upstream: Allow, TLS: TLS{SkipVerify: true}},
			{Host: "b.example.com", Upstream: Deny, Mirrors: []Mirror{{
				URL:          "https://harbor.example.com",
				Capabilities: []Capability{Pull, Resolve},
				DialTimeout:  Duration(2 * time.Second),
			}}},
		},
		Images: []Image{{Name: "a", Ref: "example.com/a", Pin: new(true)}},
		Prefetch: Prefetch{MaxParallel: 32, MaxImages: 2, Memory: 256 * Mi, KeepLayers: KeepAuto, Way: WayAuto,
			DiskReserve: new(Percent(15)), WhenUnwanted: Unpin},
		Restart: Restart{Policy: RestartWhenNeeded, Soak: Duration(30 * time.Second),
			Window: &Window{TimeZone: "UTC", Start: 22 * 60, End: EndOfDay}},
		Cluster: Cluster{MaxUnavailable: 1, MaxConcurrentNodes: 10, ResolveInterval: Duration(10 * time.Minute)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
}

func TestDecodeIsBounded(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, test := range map[string]struct {
		text string
		want string // part of the first fault
	}{
		"a document of more than 1 MiB is refused": {
			text: "# " + strings.Repeat("x", MaxDocument), want: "longer than 1048576 bytes",
		},
		"a billion laughs are not expanded": {
			text: "a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]\n", want: "unknown field",
		},
		"a long field name is cut off in the message": {
			text: long[:1000] + ": 1\n", want: strings.Repeat("x", 64) + "…",
		},
		"a long value is cut off in the message": {
			text: "apiVersion: " + long + "\n", want: strings.Repeat("x", 64) + "…",
		},
		"a long image reference is cut off in the message": {
			text: string(document("images: [{name: a, ref: a/" + long + "X}]\n")), want: "…",
		},
		"a deeply nested value does not exhaust the stack": {
			text: "apiVersion: " + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), want: "is a list",
		},
		"of very many faults the first are reported, and the number of the others": {
			text: strings.Repeat("a: 1\n", 50_000), want: "unknown field",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode("f", []byte(test.text))
			if err == nil {
				t.Fatal("no fault")
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			if !strings.Contains(first, test.want) {
				t.Errorf("the first fault is %.300s; want something with %.100s", first, test.want)
			}
			if len(first) > 1000 {
				t.Errorf("the first fault is %d bytes long", len(first))
			}
			checkFaults(t, "f", []byte(test.text), err)
		})
	}
	_, err := Decode("f", []byte(strings.Repeat("a: 1\n", 50_000)))
	if !strings.HasSuffix(err.Error(), "more faults from here on") {
		t.Error("the faults do not end with the number of those that were left out")
	}
}

func TestValidateWithoutADocument(t *testing.T) {
	cfg := &Config{APIVersion: APIVersion, Images: []Image{{Name: "a", Ref: "a b"}}, Prefetch: Prefetch{MaxParallel: 129}}
	cfg.Default()
	faults, ok := errors.AsType[Faults](cfg.Validate())
	if !ok || len(faults) != 2 {
		t.Fatalf("got %v, want two faults", faults)
	}
	if got := faults[1].String(); got != "prefetch.maxParallel: is 129; write a number from 1 to 128" {
		t.Errorf("the second fault reads %q", got)
	}
	cfg.Images[0].Ref, cfg.Prefetch.MaxParallel = "a", 128
	if err := cfg.Validate(); err != nil {
		t.Errorf("a valid config has faults: %v", err)
	}
}

func TestHashCoversWhatIsSaidAndNotHow(t *testing.T) {
	hash := func(text string) string {
		t.Helper()
		cfg, err := Decode("f", document(text))
		if err != nil {
			t.Fatal(err)
		}
		return Hash(cfg)
	}
	first := hash("images: [{name: a, ref: example.com/a}]")
	same := hash("# Comment.\nimages:\n  - ref: example.com/a\n    pin: true\n    name: a\nprefetch: {memory: 256Mi}\n")
	if same != first {
		t.Error("a comment, another order or a default spelled out changes the hash")
	}
	if other := hash("images: [{name: a, ref: example.com/b}]"); other == first {
		t.Error("another ref leaves the hash as it is")
	}
	cfg := &Config{Certs: Certs{KeyPairs: []KeyPairSource{{Name: "a", Key: "one"}}}}
	one := Hash(cfg)
	cfg.Certs.KeyPairs[0].Key = "two"
	if Hash(cfg) == one {
		t.Error("another inline key leaves the hash as it is")
	}
}

// document is a valid document with the given fields in it.
func document(fields string) []byte { return []byte("apiVersion: " + APIVersion + "\n" + fields) }

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
