package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func since(d time.Duration) time.Time { return now.Add(-d) }

func reports() map[string]NodeReport {
	conditions := []Condition{
		{Type: ConfigValid, Status: True, Reason: "Accepted", LastTransitionTime: since(time.Hour)},
		{Type: HostsLive, Status: True, Reason: "Live", Message: "live, no restart needed",
			LastTransitionTime: since(90 * time.Second)},
		{Type: ImagesReady, Status: Unknown, Reason: "Starting"},
	}
	return map[string]NodeReport{
		"empty": {},
		"ready": {
			Node: "gpu-7", AgentVersion: "v1", Ready: true, Time: now,
			Config: ConfigStatus{Source: "/etc/hotplate/config.yaml", Hash: strings.Repeat("ab", 32)},
			Containerd: Containerd{Address: "/run/containerd/containerd.sock", Version: "2.4.2",
				HostsDir: "/etc/containerd/certs.d",
				Proxy:    Proxy{HTTPS: "http://proxy.example.com:3128", No: ".example.com"}},
			AgentProxy: Proxy{HTTPS: "http://proxy.example.com:3128", No: ".example.com"},
			Disk:       &Disk{Path: "/var/lib/containerd/overlayfs", Size: 1 << 40, Free: 250 << 30},
			Conditions: conditions,
			Registries: []Registry{{Host: "docker.io", State: RegistryApplied, Mirrors: []Mirror{
				{URL: "https://harbor.example.com/hub", Reachable: true, Message: "401 Unauthorized", Overlap: true},
				{URL: "https://backup.example.com", Message: "connection refused"}}}},
			Certificates: []Certificate{
				{Used: "ca harbor", Subject: "CN=Example CA", NotAfter: now.AddDate(0, 0, 400), State: "Valid"},
				{Used: "client certificate node", Subject: "CN=gpu-7", NotAfter: since(25 * time.Hour), State: "Expired"}},
			Images: []Image{{Name: "llama", Ref: "docker.io/example/llama:v1", Phase: ImageReady, Pinned: true,
				BytesDone: 3 << 30, BytesTotal: 3 << 30, Size: 7 << 30, Way: "Direct", Kept: true, BoundBy: "stream",
				Advice: []string{"layer 3 is one 41.0 GiB gzip stream: repack it as zstd or uncompressed"}},
				{Name: "weights", Ref: "docker.io/example/weights:v1", Phase: ImageReady, NotMountable: true,
					Message: "an artifact of type application/vnd.cncf.model.manifest.v1+json", Way: "API",
					WayReason: "the snapshotter is native"}},
			Unwanted: []Unwanted{{ImageID: "sha256:0123", Size: 1 << 30, Message: "image is in use: container c"}},
		},
		"restart": {
			Node: "gpu-7", Containerd: Containerd{Address: "/run/containerd/containerd.sock", HostsDir: "/etc/containerd/certs.d"},
			Conditions: []Condition{{Type: HostsLive, Status: False, Reason: RestartDeferred,
				Message: "containerd does not read /etc/containerd/certs.d. The restart is put off", LastTransitionTime: since(time.Hour)}},
			Restart: Restart{Policy: "WhenNeeded", Next: now.Add(90 * time.Second), Checks: []Check{
				{Name: "unit", Verdict: "pass", Detail: "containerd.service spares its containers"},
				{Name: "busy", Verdict: "defer", Detail: "images are being pulled: layer-sha256:0\x1b[31m at 1 of 2 bytes"}},
				Records: []RestartRecord{
					{How: "Restarted", Time: since(time.Hour), Reason: "config_path is set", Unit: "containerd.service",
						File: "/etc/containerd/config.toml", Downtime: 187654 * time.Microsecond},
					{How: "RolledBack", Time: since(26 * time.Hour), Reason: "the agent died", Unit: "containerd.service", Rescued: true},
				}},
		},
		"cluster": {
			Node: "gpu-7", Config: ConfigStatus{Source: "ConfigMap hotplate/hotplate-config", Hash: strings.Repeat("ab", 32)},
			Containerd: Containerd{Address: "/run/containerd/containerd.sock", HostsDir: "/etc/containerd/certs.d"},
			Conditions: []Condition{
				{Type: HostsLive, Status: False, Reason: WaitsForSlot, Message: "containerd does not read /etc/containerd/certs.d. hotplate " +
					"restarts it when the coordinator gives the leave: gpu-1 restarts", LastTransitionTime: since(time.Hour)},
				{Type: ImagesReady, Status: False, Reason: "Preparing", Message: "preparing: llama, qwen", LastTransitionTime: since(time.Minute)}},
			Images: []Image{
				{Name: "llama", Ref: "harbor.example.com/models/llama:v1", Target: "sha256:0123", Phase: ImagePending, Reason: WaitsForTurn,
					Message: "waits for its turn to pull: 10 nodes do"},
				{Name: "qwen", Ref: "harbor.example.com/models/qwen:v1", Phase: ImagePending, Reason: WaitsForCoordinator,
					Message: "waits for the coordinator to look up what its tag means"}},
			Throttled: []Throttle{{Host: "harbor.example.com", For: 29500 * time.Millisecond}},
			Restart:   Restart{Policy: "WhenNeeded", Slot: SlotWanted},
		},
		"released": {Node: "gpu-7", Released: true, Conditions: []Condition{{Type: Released, Status: True, Reason: "AsBefore",
			LastTransitionTime: since(time.Minute)}}},
		"troubled": {
			Config: ConfigStatus{Source: "config.yaml", Rejected: []string{"config.yaml:3: image: no such field",
				"config.yaml:9: x"}},
			Containerd: Containerd{Address: "/run/containerd/containerd.sock", HostsDir: "/etc/containerd/certs.d"},
			AgentProxy: Proxy{HTTP: "http://proxy.example.com:3128"},
			Conditions: []Condition{{Type: RegistriesConfigured, Status: False, Reason: "NotAllApplied",
				Message: "a: Conflict: b\nc: Flapping: d\n", LastTransitionTime: since(3 * time.Second)}},
			Registries: []Registry{{Host: "quay.io", State: RegistryConflict, Message: "somebody's; set adopt: true"}},
			Images: []Image{
				{Name: "a", Ref: "a:v1", Phase: ImageFetching, BytesDone: 1 << 20, BytesTotal: 3 << 20, Message: "memory",
					Rate: 1 << 19, Left: 4 * time.Second, Layers: []Layer{
						{Digest: "sha256:" + strings.Repeat("0", 64), Phase: ImageFetching, Size: 2 << 20, Done: 1 << 20,
							Rate: 1 << 19, Left: 2 * time.Second, Host: "harbor.example.com"},
						{Digest: "sha256:" + strings.Repeat("1", 64), Phase: ImageFetching, Size: 1 << 20, WaitingFor: "memory"},
						{Digest: "sha256:" + strings.Repeat("2", 64), Phase: ImagePending, Size: 1}}},
				{Name: "b", Ref: "b:v1", Phase: ImageFailed, Message: "registry says \x1b[31mno\x1b[0m\r\tway",
					Retry: now.Add(90 * time.Second)},
				{Name: "c", Ref: "c:v1", Phase: ImageFailed, Reason: NoSpace, Message: "no", Retry: since(time.Second)}},
		},
	}
}

func TestText(t *testing.T) {
	for name, r := range reports() {
		t.Run(name, func(t *testing.T) {
			got := r.Text(now)
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (run with -update to write it)", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got, -update writes it):\n%s", path, diff)
			}
			if strings.ContainsAny(got, "\x1b\r\t") {
				t.Errorf("it holds what a terminal obeys: %q", got)
			}
		})
	}
}

func TestTextChangesNothing(t *testing.T) {
	r := reports()["troubled"]
	r.Text(now)
	if diff := cmp.Diff(reports()["troubled"], r); diff != "" {
		t.Error(diff)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1024.0 KiB", 1 << 20: "1.0 MiB",
		3 << 30: "3.0 GiB", 5 << 40: "5.0 TiB", 1 << 50: "1.0 PiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestRateAndLeft(t *testing.T) {
	for got, want := range map[string]string{
		Rate(0): "-", Rate(3 << 20): "3.0 MiB/s", RateOver(3<<20, 2*time.Second): "1.5 MiB/s", RateOver(1, 0): "-",
		Left(0): "-", Left(90 * time.Second): "1m30s", Left(time.Millisecond): "1s",
		Short("sha256:0123456789abcdef"): "sha256:0123456789ab", Short("x"): "x",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestConditionOfAReportWithoutIt(t *testing.T) {
	want := Condition{Type: HostsLive, Status: Unknown, Reason: "NotObserved"}
	if diff := cmp.Diff(want, NodeReport{}.Condition(HostsLive)); diff != "" {
		t.Error(diff)
	}
}

// What a coordinator or a program reads is what the agent wrote.
func TestAReportSurvivesJSON(t *testing.T) {
	for name, r := range reports() {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got NodeReport
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("%s (-written +read):\n%s", name, diff)
		}
	}
}
