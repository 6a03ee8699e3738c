//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestPullOutput(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "hotplate pull: plain lines, JSON lines, bars on a terminal; --pin or not")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	n.prepare(mirror)
	args := []string{"pull", "--address", n.containerd.Address(), "--hosts-dir", n.hosts(), "--credentials", n.etc("docker.json")}

	// Slow enough that there is something to show.
	mirror.SetScript(always(isBlob, rig.Fault{BytesPerSecond: 1 << 20}))
	plain := mirror.push(t, model())
	res := n.run("hotplate", with(args, plain.under(mirrored))...)
	if res.code != 0 || !contains(res.out, plain.under(mirrored)+": Ready: "+plain.digest, "fetched in") ||
		!contains(res.out, "Fetching") {
		t.Errorf("plain lines: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	n.checkPinned(plain, false)
	if res := n.run("hotplate", with(args, "--pin", plain.under(mirrored))...); res.code != 0 ||
		!contains(res.out, "Ready, pinned") {
		t.Errorf("--pin on an image that is there: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	n.checkPinned(plain, true)
	row.saw("plain lines; --pin on an image that is there pins it")

	one, two := mirror.push(t, model()), mirror.push(t, small())
	res = n.run("hotplate", with(args, "--output", "json", one.under(mirrored), two.under(mirrored))...)
	if res.code != 0 {
		t.Errorf("JSON: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	row.saw("JSON: %d progress events, 2 results", checkEvents(t, res.out, one, two))

	bars := mirror.push(t, model())
	out := n.onTerminal(filepath.Join(bin, "hotplate"), with(args, bars.under(mirrored))...)
	layer := bars.layers[len(bars.layers)-1].String()[:len("sha256:")+12]
	if !contains(out, layer, "MiB", "%") && !contains(out, layer, "MiB", "Ready") || strings.Count(out, layer) < 2 {
		t.Errorf("on a terminal there is no bar that moves for layer %s:\n%q", layer, out)
	}
	row.saw("a terminal: bars per layer")
}

// with adds arguments without changing the others.
func with(args []string, more ...string) []string { return slices.Concat(args, more) }

// checkPinned checks whether CRI says that an image is pinned.
func (n *node) checkPinned(img image, want bool) {
	n.t.Helper()
	status, err := n.cri.ImageStatus(n.t.Context(), img.under(mirrored))
	if err != nil {
		n.t.Fatal(err)
	}
	if status.GetId() != img.id || status.GetPinned() != want {
		n.t.Errorf("CRI has %v, want image %s with pinned=%v", status, img.id, want)
	}
}

// checkEvents checks the lines of --output json and returns how many tell of progress.
func checkEvents(t *testing.T, out string, images ...image) (progress int) {
	t.Helper()
	ready := make(map[string]string)
	for line := range strings.Lines(out) {
		var e struct {
			Event, Ref string
			Progress   *struct{ BytesTotal int64 }
			Result     *struct{ Digest string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("a line that is not JSON: %v: %s", err, line)
		}
		switch {
		case e.Event == "progress" && e.Progress != nil:
			progress++
		case e.Event == "ready" && e.Result != nil:
			ready[e.Ref] = e.Result.Digest
		default:
			t.Errorf("an unexpected event: %s", line)
		}
	}
	for _, img := range images {
		if ready[img.under(mirrored)] != img.digest {
			t.Errorf("the result for %s is %q, want %s", img.under(mirrored), ready[img.under(mirrored)], img.digest)
		}
	}
	if progress == 0 {
		t.Error("there is no progress event")
	}
	return progress
}

func TestPullErrors(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "hotplate pull: errors name registry, image and next step; exit codes")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	n.prepare(mirror)
	const unknown = mirrored + "/team/nothing:v1"
	base := []string{"pull", "--address", n.containerd.Address(), "--hosts-dir", n.hosts()}
	login := with(base, "--credentials", n.etc("docker.json"))
	img := mirror.push(t, small())
	for _, tt := range []struct {
		name string
		args []string
		says []string
	}{
		{"unknown image", with(login, unknown), []string{unknown, mirror.Host(), "404", "push it there"}},
		{"no credentials", with(base, img.under(mirrored)), []string{img.under(mirrored), mirror.Host(), "check the credentials"}},
		{"not a reference", with(login, "Not A Ref"), []string{"Not A Ref"}},
		{"unknown output", with(login, "--output", "yaml", unknown), []string{"--output", "text or json"}},
		{"no containerd", with(login, "--address", n.path("none.sock"), img.under(mirrored)), []string{n.path("none.sock")}},
		{"no credentials file", with(base, "--credentials", n.etc("none.json"), unknown), []string{"none.json"}},
		{"no image named", base, []string{"requires at least 1 arg"}},
	} {
		res := n.run("hotplate", tt.args...)
		if res.code != 1 || !contains(res.err, tt.says...) || strings.Contains(res.err, "goroutine ") {
			t.Errorf("%s: exit code %d, want 1; the error should have %q:\n%s", tt.name, res.code, tt.says, res.err)
		}
	}
	res := n.run("hotplate", with(login, "--output", "json", unknown, img.under(mirrored))...)
	if res.code != 1 || !contains(res.out, `"event":"failed"`, `"event":"ready"`, "push it there") {
		t.Errorf("JSON, one of two unknown: exit code %d, want 1, a failed and a ready event\n%s%s", res.code, res.out, res.err)
	}
	row.saw("7 mistakes with exit code 1; of two images the good one is pulled")
}

func TestLint(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "hotplate lint: good files pass, faulty ones are told with line and path")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	n.writeConfig(n.config(mirrored, config.Deny, mirror))
	expired, err := rig.NewCAWith(rig.CertOptions{CommonName: "Old Corp CA", NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	n.write("old.pem", expired.PEM())
	files := map[string]string{
		"faulty.yaml": "apiVersion: hotplate.dev/v1alpha1\nregistries:\n- host: a.invalid\n  upstram: Deny\n" +
			"  mirrors:\n  - url: ftp://m\nimages:\n- name: x\n  ref: ''\n",
		"expired.yaml":     "apiVersion: hotplate.dev/v1alpha1\ncerts:\n  bundles:\n  - name: old\n    file: " + n.etc("old.pem") + "\n",
		"elsewhere.yaml":   "apiVersion: hotplate.dev/v1alpha1\ncerts:\n  bundles:\n  - name: ca\n    file: /nonexistent/ca.pem\n",
		"good/hosts.toml":  "server = \"https://m.invalid\"\n[host.\"https://m.invalid\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
		"bad/hosts.toml":   "server = \"https://m.invalid\"\n[host.\"https://m.invalid\"]\ncapabilities = [\"fly\"]\n",
		"list/config.toml": "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n",
	}
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(n.etc(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		n.write(name, []byte(data))
	}
	for _, tt := range []struct {
		file string
		code int
		says []string
	}{
		{"config.yaml", 0, []string{"ok"}},
		{"faulty.yaml", 1, []string{"faulty.yaml:4", "upstram", "faulty.yaml:6", "ftp", "faulty.yaml:9"}},
		{"expired.yaml", 1, []string{"Old Corp CA", "Expired"}},
		{"elsewhere.yaml", 0, []string{"/nonexistent/ca.pem", "ok"}},
		{"good/hosts.toml", 0, []string{"ok"}},
		{"bad/hosts.toml", 1, []string{"fly"}},
		{"list/config.toml", 0, []string{"config_path", "containerd 2.1 and later"}},
		{"missing.yaml", 1, []string{"missing.yaml"}},
	} {
		res := n.run("hotplate", "lint", n.etc(tt.file))
		if res.code != tt.code || !contains(res.out+res.err, tt.says...) {
			t.Errorf("lint %s: exit code %d, want %d, and %q in:\n%s%s", tt.file, res.code, tt.code, tt.says, res.out, res.err)
		}
	}
	row.saw("8 files, exit codes and texts as expected")
}

func TestExplainIsTheTruth(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "hotplate explain lists the URLs that containerd then asks, in that order")
		up, one, two := newUpstream(t), newMirror(t), newMirror(t)
		n := newNode(t, line, nil)
		wall := n.config(up.Host(), config.Deny, one, two)
		noPath := n.config(up.Host(), config.Deny, one)
		noPath.Registries[0].Mirrors[0].Path = ""
		var hosts []int
		byDefault := n.config("_default", config.Deny, two, one)
		for i, c := range []*config.Config{n.allow(up, one, two), wall, n.config(up.Host(), config.Deny, two), noPath, byDefault} {
			n.writeConfig(c)
			if i == 0 {
				n.start()
			} else {
				n.configure(c)
			}
			n.until(ready)
			n.waitApplied()
			hosts = append(hosts, n.compareWithExplain(up, one, two))
		}
		row.saw("%d configs; hosts asked: %v", len(hosts), hosts)
		hosts = nil
		// Files by other hands, with what containerd makes of them in its own way. Where it falls back to a registry on the
		// loopback, 1.6.20 speaks plain HTTP, and the others TLS first.
		n.stop()
		n.uninstall()
		if line == "1.6" {
			up = newSite(t, upstream, "", func(c *rig.ProxyConfig) { c.CertPEM = nil })
		}
		mirror := func(s *site) string { return fmt.Sprintf("%s/v2/%s", s.URL(), project) }
		for _, text := range []string{
			"",
			"server = \"" + mirror(one) + "\"\nskip_verify = true\noverride_path = true\n",
			"server = \"" + up.URL() + "\"\nskip_verify = true\n[host.\"" + one.URL() + "\"]\nskip_verify = true\n" +
				"capabilities = [\"pull\"]\n[host.\"" + two.URL() + "\"]\nskip_verify = true\n",
			"server = \"" + up.URL() + "\"\nskip_verify = true\n[host]\n\"" + one.URL() + "\" = {skip_verify = true}\n",
			"[host.\"" + two.URL() + "\"]\nskip_verify = true\ncapabilities = [\"pull\", \"resolve\", \"fly\"]\n",
		} {
			dir := filepath.Dir(n.hostsTOML(up.Host()))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(n.hostsTOML(up.Host()), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			hosts = append(hosts, n.compareWithExplain(up, one, two))
		}
		row.saw("%d files by other hands; hosts asked: %v", len(hosts), hosts)
	})
}

// compareWithExplain lets all sites answer 404, compares what a kubelet's pull asks with what explain says, and returns the
// number of hosts that were asked.
func (n *node) compareWithExplain(sites ...*site) int {
	n.t.Helper()
	for _, s := range sites {
		s.Reset()
		s.SetScript(always(anything, rig.Answer(404)))
	}
	ref := sites[0].Host() + "/team/model:none"
	if err := n.pull(ref); err == nil {
		n.t.Error("a pull works although every registry answers 404")
	}
	// The first manifest request at each host, in the order of time.
	var first []rig.Request
	urls := make(map[string]string)
	for _, s := range sites {
		for _, r := range s.asked() {
			if strings.Contains(r.Path, "/manifests/") && urls[r.Host+r.Path] == "" {
				urls[r.Host+r.Path] = s.URL() + r.Path
				first = append(first, r)
			}
		}
	}
	slices.SortStableFunc(first, func(a, b rig.Request) int { return a.Time.Compare(b.Time) })
	var asked []string
	for _, r := range first {
		asked = append(asked, urls[r.Host+r.Path])
	}
	out := n.run("hotplate", "explain", "--hosts-dir", n.hosts(), "--containerd-version", n.containerd.Version(), ref).out
	said := explained(out)
	if !slices.Equal(said, asked) {
		hosts, _ := os.ReadFile(n.hostsTOML(sites[0].Host()))
		n.t.Errorf("explain says\n%s\ncontainerd asked\n%s\nwith\n%s\nexplain:\n%s", strings.Join(said, "\n"),
			strings.Join(asked, "\n"), hosts, out)
	}
	return len(asked)
}

// explained lists the URLs in the output of explain at which containerd is said to ask for a tag.
func explained(out string) (urls []string) {
	for line := range strings.Lines(out) {
		if i := strings.Index(line, ". http"); i == 1 {
			url := strings.TrimSpace(line[i+2:])
			// The server of a wall may repeat a host, and one that may not resolve is not asked for a tag.
			if !slices.Contains(urls, url) && !strings.Contains(url, "<digest of none>") {
				urls = append(urls, url)
			}
		}
	}
	return urls
}

func TestOnce(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "hotplate-agent --once: exit code 0 only when the node is Ready")
	mirror := newMirror(t)
	img := mirror.push(t, small())
	n := newNode(t, newest, nil)
	once := func() output {
		return n.run("hotplate-agent", append(n.flags(), "--config", n.etc("config.yaml"), "--once", "--node-name", "gpu-1")...)
	}
	c := n.wanting(img, mirror)
	n.writeConfig(c)
	if res := once(); res.code != 0 || !contains(res.out, "gpu-1: Ready", "model", "Ready") {
		t.Errorf("Ready: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	n.checkImage(mirror, img, allNames(img)...)
	c.Images = append(c.Images, config.Image{Name: "none", Ref: mirrored + "/team/none:v1"})
	n.writeConfig(c)
	if res := once(); res.code != 1 || !contains(res.out, "gpu-1: not Ready", "404") || !contains(res.err, "not Ready") {
		t.Errorf("an image is missing: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	n.write("config.yaml", []byte("apiVersion: hotplate.dev/v1alpha1\nfoo: 1\n"))
	if res := once(); res.code != 1 || !contains(res.err, "config.yaml:2", "foo") {
		t.Errorf("a faulty config: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	row.saw("Ready 0, image missing 1, config faulty 1")
	other := newNode(t, newest, func(c *rig.ContainerdConfig) { c.HostsDir = "" })
	other.writeConfig(other.config(mirrored, config.Deny, mirror))
	res := other.run("hotplate-agent", append(other.flags(), "--config", other.etc("config.yaml"), "--once")...)
	if res.code != 1 || !contains(res.out, "RestartNeeded", "config_path") {
		t.Errorf("containerd does not obey: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	row.saw("containerd does not obey 1")
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "a second agent, an uninstall beside the agent, and a taken port fail and say why")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	n.writeConfig(n.config(mirrored, config.Deny, mirror))
	n.start()
	n.until(ready)
	n.waitApplied()
	before := tree(t, n.hosts())
	pid := fmt.Sprint(n.agent.cmd.Process.Pid)
	for _, args := range [][]string{
		append(n.flags(), "--config", n.etc("config.yaml"), "--listen", "127.0.0.1:0"),
		append(n.flags(), "--config", n.etc("config.yaml"), "--once"),
		append([]string{"uninstall"}, n.flags()...),
	} {
		res := n.run("hotplate-agent", args...)
		if res.code != 1 || !contains(res.err, n.path("state"), "in use by another process", "process "+pid, "stop it first") {
			t.Errorf("%v: exit code %d\n%s%s", args, res.code, res.out, res.err)
		}
	}
	sameTree(t, before, tree(t, n.hosts()))
	n.until(ready)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.stop()
	res := n.run("hotplate-agent", append(n.flags(), "--config", n.etc("config.yaml"), "--listen", l.Addr().String())...)
	if res.code != 1 || !contains(res.err, l.Addr().String(), "--listen") {
		t.Errorf("a taken port: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	row.saw("each with exit code 1, the state directory, the other's pid and the next step")
}

func TestStatusHealthAndMetrics(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "hotplate status, /healthz, /readyz and /metrics")
	mirror := newMirror(t)
	img := mirror.push(t, small())
	n := newNode(t, newest, nil)
	n.pid = 0
	status := func(more ...string) output {
		return n.run("hotplate", append([]string{"status", "--state-dir", n.path("state")}, more...)...)
	}
	if res := status(); res.code != 1 || !contains(res.err, "status.sock", "is it running") {
		t.Errorf("status without an agent: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	want := n.until(ready, imageIs("model", report.ImageReady))
	res := status()
	if res.code != 0 || !contains(res.out, "gpu-1: Ready", "containerd "+n.containerd.Version(), mirrored, "HostsLive",
		img.under(mirrored), mirror.URL()) {
		t.Errorf("status: exit code %d\n%s%s", res.code, res.out, res.err)
	}
	var r report.NodeReport
	if err := json.Unmarshal([]byte(status("--output", "json").out), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Ready || r.Config.Hash != want.Config.Hash || len(r.Images) != 1 || r.Images[0].Digest != img.digest {
		t.Errorf("status in JSON is %+v", r)
	}
	if mode := fileMode(t, n.path("state", "status.sock")); mode.Perm()&0o077 != 0 {
		t.Errorf("others than root may open the status socket: %s", mode)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := n.get(path); !strings.HasPrefix(got, "200") {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := n.get("/metrics"); !contains(got, "\nhotplate_ready 1\n", `hotplate_image_ready{image="model"} 1`,
		`hotplate_condition{type="HostsLive"} 1`, "hotplate_mirror_reachable{") {
		t.Errorf("metrics:\n%s", got)
	}
	row.saw("status 0 with an agent, 1 without; healthy, ready, metrics")

	if err := n.containerd.Kill(); err != nil {
		t.Fatal(err)
	}
	n.until(notReady, condition(report.ContainerdHealthy, report.False, n.containerd.Address()))
	if got := n.get("/readyz"); !strings.HasPrefix(got, "503") {
		t.Errorf("/readyz without containerd: %s", got)
	}
	if got := n.get("/healthz"); !strings.HasPrefix(got, "200") {
		t.Errorf("/healthz without containerd: %s", got)
	}
	if err := n.containerd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.until(ready)
	if got := n.get("/readyz"); !strings.HasPrefix(got, "200") {
		t.Errorf("/readyz with containerd back: %s", got)
	}
	row.saw("containerd away: /readyz 503, /healthz 200; back: 200")
}

func TestProxyEnvironments(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "the proxies of agent and containerd are told, without passwords, also where they differ")
	const secret = "proxy-pass-3141"
	mirror := newMirror(t)
	img := mirror.push(t, small())
	n := newNode(t, newest, func(c *rig.ContainerdConfig) {
		c.Env = []string{"HTTPS_PROXY=http://proxyuser:" + secret + "@daemon-proxy.invalid:3128", "NO_PROXY=.daemon.invalid"}
	})
	n.secrets = append(n.secrets, secret)
	n.env = []string{"https_proxy=http://proxyuser:" + secret + "@agent-proxy.invalid:3128", "NO_PROXY=.agent.invalid"}
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	r := n.until(ready) // registries on the loopback need no proxy
	if r.AgentProxy == r.Containerd.Proxy || !contains(r.AgentProxy.String(), "agent-proxy.invalid:3128", ".agent.invalid") ||
		!contains(r.Containerd.Proxy.String(), "daemon-proxy.invalid:3128", ".daemon.invalid") {
		t.Errorf("the agent's proxy is %s, containerd's %s", r.AgentProxy, r.Containerd.Proxy)
	}
	out := n.run("hotplate", "status", "--state-dir", n.path("state")).out
	if !contains(out, "proxy differs", "agent-proxy.invalid", "daemon-proxy.invalid") {
		t.Errorf("status does not tell that the proxies differ:\n%s", out)
	}
	n.checkImage(mirror, img, allNames(img)...)
	row.saw("status says: proxy differs; Ready all the same")
}

func TestVersionAndFlags(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "the fixed flags and commands exist, and mistakes in them are told")
	n := newNode(t, newest, nil)
	for _, tt := range []struct {
		program string
		args    string
		code    int
		says    []string
	}{
		{"hotplate-agent", "--version", 0, []string{"hotplate-agent", "e2e"}},
		{"hotplate", "--version", 0, []string{"hotplate", "e2e"}},
		{"hotplate-agent", "--help", 0, []string{"--config", "--address", "--hosts-dir", "--state-dir", "--once",
			"--node-name", "--listen", "127.0.0.1:9464", "--log-level", "--log-format"}},
		{"hotplate", "--help", 0, []string{"pull", "lint", "explain", "status", "--log-level"}},
		{"hotplate", "pull --help", 0, []string{"--address", "--hosts-dir", "--credentials", "--output", "--pin"}},
		{"hotplate", "explain --help", 0, []string{"--hosts-dir", "--containerd-version"}},
		{"hotplate-agent", "--log-level loud", 1, []string{"--log-level", "debug, info, warn or error"}},
		{"hotplate-agent", "--log-format xml", 1, []string{"--log-format", "text or json"}},
		{"hotplate-agent", "--nonsense", 1, []string{"--nonsense"}},
		{"hotplate", "nonsense", 1, []string{"nonsense"}},
		{"hotplate", "explain --containerd-version x docker.io/a/b", 1, []string{"--containerd-version"}},
	} {
		res := n.run(tt.program, strings.Fields(tt.args)...)
		if res.code != tt.code || !contains(res.out+res.err, tt.says...) {
			t.Errorf("%s %s: exit code %d, want %d, and %q in:\n%s%s", tt.program, tt.args, res.code, tt.code, tt.says,
				res.out, res.err)
		}
	}
	row.saw("11 command lines")
}
