//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// node is a machine in small: a containerd, a hosts directory, the files of a config, and the agent when it runs.
type node struct {
	t          *testing.T
	dir        string
	containerd *rig.Containerd
	cri        *rig.CRI
	pid        int // of containerd; 0 when the test restarts it itself
	agent      *process
	env        []string // added to the programs' environment
	secrets    []string // what must be in nothing that is printed, beside the shared password
	listen     string
	volume     bool            // the config is a file of a volume, as swap makes them
	way        config.Way      // how layers get into containerd; empty for the config's default
	spoken     strings.Builder // what commands printed
}

// newNode starts a containerd that reads the node's hosts directory. change, which may be nil, edits its configuration.
func newNode(t *testing.T, line string, change func(*rig.ContainerdConfig)) *node {
	t.Helper()
	rigtest.RequireRoot(t)
	// The status socket is below, and the paths of sockets must be short.
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	listen, err := rig.FreeAddr(10_000, 19_999)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, listen: listen, secrets: []string{password}}
	for _, sub := range []string{n.hosts(), n.path("etc")} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg := rig.ContainerdConfig{Line: line, HostsDir: n.hosts(), Dir: n.path("containerd")}
	if change != nil {
		change(&cfg)
	}
	n.containerd = rigtest.Containerd(t, cfg)
	n.cri = rigtest.CRI(t, n.containerd)
	n.pid = n.containerd.PID()
	n.write("user", []byte(user+"\n"))
	n.write("password", []byte(password+"\n"))
	t.Cleanup(n.end)
	return n
}

// end checks what must be true at the end of every test.
func (n *node) end() {
	if n.agent != nil && n.agent.running() {
		n.say(n.get("/metrics"))
		if body, err := n.status(context.Background()); err == nil {
			n.say(string(body))
		}
		n.stop()
	}
	if pid := n.containerd.PID(); n.pid != 0 && pid != n.pid {
		n.t.Errorf("containerd was process %d and is %d: somebody restarted it", n.pid, pid)
	}
	n.checkSecrets()
	if n.t.Failed() {
		n.t.Logf("log of the agent:\n%s", tail(n.log()))
	}
}

// say keeps what was printed, to look for secrets in it.
func (n *node) say(s string) { n.spoken.WriteString(s + "\n") }

// checkSecrets looks for passwords, plain and as in a header, in the agent's log and in everything that was printed.
func (n *node) checkSecrets() {
	n.t.Helper()
	printed := n.spoken.String() + n.log()
	for _, secret := range n.secrets {
		basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
		for _, s := range []string{secret, basic} {
			if i := strings.Index(printed, s); i >= 0 {
				n.t.Errorf("a secret was printed: …%s…", printed[max(0, i-300):min(len(printed), i+100)])
			}
		}
	}
}

func (n *node) path(elem ...string) string { return filepath.Join(append([]string{n.dir}, elem...)...) }

func (n *node) hosts() string { return n.path("certs.d") }

// hostsTOML is the file of a registry host.
func (n *node) hostsTOML(host string) string {
	return filepath.Join(n.hosts(), hostconfig.HostDir(host), hostconfig.HostsTOML)
}

// etc is the path of a file that the config names.
func (n *node) etc(name string) string { return n.path("etc", name) }

// write replaces a file of the config's in one rename.
func (n *node) write(name string, data []byte) {
	n.t.Helper()
	if err := apply.WriteFile(n.etc(name), data, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// config is one that sends the images of host to the mirrors.
func (n *node) config(host string, up config.Upstream, mirrors ...*site) *config.Config {
	n.t.Helper()
	c := &config.Config{
		APIVersion: config.APIVersion,
		Credentials: []config.Credential{
			{Name: "login", UsernameFile: n.etc("user"), PasswordFile: n.etc("password")},
		},
	}
	reg := config.Registry{Host: host, Upstream: up}
	for _, m := range mirrors {
		reg.Mirrors = append(reg.Mirrors, n.mirror(c, m))
	}
	c.Registries = []config.Registry{reg}
	return c
}

// mirror is a site as a mirror in a config, to which its CA is added.
func (n *node) mirror(c *config.Config, s *site) config.Mirror {
	n.t.Helper()
	_, port, err := net.SplitHostPort(s.Host())
	if err != nil {
		n.t.Fatal(err)
	}
	n.bundle(c, "ca-"+port, s.ca)
	return config.Mirror{URL: s.URL(), Path: s.path, TLS: config.TLS{CA: []string{"ca-" + port}}, Credentials: "login"}
}

// bundle adds a CA to a config, from a file of its name.
func (n *node) bundle(c *config.Config, name string, ca *rig.CA) {
	n.t.Helper()
	n.write(name+".pem", ca.PEM())
	c.Certs.Bundles = append(c.Certs.Bundles, config.BundleSource{Name: name, File: n.etc(name + ".pem")})
}

// allow is a config for the images of up, with up itself behind the mirrors.
func (n *node) allow(up *site, mirrors ...*site) *config.Config {
	n.t.Helper()
	c := n.config(up.Host(), config.Allow, mirrors...)
	n.bundle(c, "upstream", up.ca)
	c.Registries[0].TLS = config.TLS{CA: []string{"upstream"}}
	c.Registries[0].Credentials = "login"
	return c
}

// writeConfig replaces the config file and returns the hash that the agent should show.
func (n *node) writeConfig(c *config.Config) (hash string) {
	n.t.Helper()
	raw, err := yaml.Marshal(c)
	if err != nil {
		n.t.Fatal(err)
	}
	s := config.Read("config.yaml", raw, nil)
	if s.Config == nil {
		n.t.Fatalf("the test's config is faulty: %v\n%s", s.Err, raw)
	}
	if n.volume {
		n.swap(map[string][]byte{"config.yaml": raw})
	} else {
		n.write("config.yaml", raw)
	}
	return s.Hash
}

// configure replaces the config file and waits until the hosts directory is as that asks.
func (n *node) configure(c *config.Config) {
	n.t.Helper()
	hash := n.writeConfig(c)
	n.until(func(r report.NodeReport) string {
		if r.Config.Hash != hash {
			return fmt.Sprintf("config %s is in force, not %s", r.Config.Hash, hash)
		}
		return ""
	})
	n.waitApplied()
}

// waitApplied waits until the hosts directory holds what the config file asks for: exactly what Render makes of it.
func (n *node) waitApplied() {
	n.t.Helper()
	tree := n.rendered()
	waitFor(n.t, "the hosts directory to be as the config asks", func() string {
		for name, f := range tree {
			got, err := os.ReadFile(filepath.Join(n.hosts(), name))
			if err != nil || string(got) != string(f.Data) {
				return fmt.Sprintf("%s: %v\n%s\nwant:\n%s", name, err, got, f.Data)
			}
		}
		return ""
	})
}

// rendered is what the config file asks of the hosts directory.
func (n *node) rendered() hostconfig.Tree {
	n.t.Helper()
	raw, err := os.ReadFile(n.etc("config.yaml"))
	if err != nil {
		n.t.Fatal(err)
	}
	regs, err := agent.Registries(config.Read("config.yaml", raw, nil))
	if err != nil {
		n.t.Fatal(err)
	}
	v, err := hostconfig.ParseVersion(n.containerd.Version())
	if err != nil {
		n.t.Fatal(err)
	}
	tree, err := hostconfig.Render(regs, v)
	if err != nil {
		n.t.Fatal(err)
	}
	return tree
}

// pull pulls as the kubelet does, with the login of an imagePullSecret.
func (n *node) pull(ref string) error {
	_, err := n.cri.PullImage(n.t.Context(), ref, &runtimeapi.AuthConfig{Username: user, Password: password})
	return err
}

// mustPull pulls as the kubelet does and checks which image came.
func (n *node) mustPull(ref string, want image) {
	n.t.Helper()
	id, err := n.cri.PullImage(n.t.Context(), ref, &runtimeapi.AuthConfig{Username: user, Password: password})
	if err != nil {
		n.t.Fatal(err)
	}
	if id != want.id {
		n.t.Fatalf("the pull of %s gave image %s, want %s", ref, id, want.id)
	}
}

// flags are those that say where the node is.
func (n *node) flags() []string {
	return []string{"--address", n.containerd.Address(), "--hosts-dir", n.hosts(), "--state-dir", n.path("state")}
}

// start starts the agent and waits until it answers.
func (n *node) start(more ...string) {
	n.t.Helper()
	n.launch(more...)
	n.until(func(report.NodeReport) string { return "" })
}

// launch starts the agent.
func (n *node) launch(more ...string) {
	n.t.Helper()
	args := append(n.flags(), "--config", n.etc("config.yaml"), "--node-name", "gpu-1", "--listen", n.listen)
	p, err := launch(filepath.Join(bin, "hotplate-agent"), append(args, more...), n.environ(), n.path("agent.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.agent = p
	n.say(p.commandLine())
}

// stop ends the agent as systemd or the kubelet do, and expects that it ends well.
func (n *node) stop() {
	n.t.Helper()
	if err := n.agent.end(syscall.SIGTERM); err != nil {
		n.t.Errorf("the agent ended with %v", err)
	}
}

// stopAgent ends the agent if it runs.
func (n *node) stopAgent() {
	n.t.Helper()
	if n.agent != nil && n.agent.running() {
		n.stop()
	}
}

// kill ends the agent as a crash does.
func (n *node) kill() {
	n.t.Helper()
	_ = n.agent.end(syscall.SIGKILL) // it ends with that signal
}

// uninstall runs the agent's uninstall and expects it to work.
func (n *node) uninstall() {
	n.t.Helper()
	if res := n.run("hotplate-agent", append([]string{"uninstall"}, n.flags()...)...); res.code != 0 {
		n.t.Fatalf("uninstall: exit code %d\n%s%s", res.code, res.out, res.err)
	}
}

// environ is the environment of the programs: ours without what would change how they reach registries.
func (n *node) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
	return append(env, n.env...)
}

// output is what a command printed and how it ended.
type output struct {
	code     int
	out, err string
}

// run runs one of the programs to its end.
func (n *node) run(name string, args ...string) output {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, n.environ()
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	n.say(out.String() + errs.String())
	return output{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (n *node) log() string {
	data, err := os.ReadFile(n.path("agent.log"))
	if err != nil && !os.IsNotExist(err) {
		n.t.Error(err)
	}
	return string(data)
}

func (n *node) status(ctx context.Context) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.path("state", agent.SocketName))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// want says what is missing in a report, or nothing.
type want func(report.NodeReport) string

// until waits until the agent's report is as wanted, in all respects at once.
func (n *node) until(wants ...want) (r report.NodeReport) {
	n.t.Helper()
	waitFor(n.t, "the agent's report", func() string {
		if !n.agent.running() {
			n.t.Fatalf("the agent has ended: %v", n.agent.err)
		}
		body, err := n.status(n.t.Context())
		if err != nil {
			return err.Error() // the socket comes a moment after the start
		}
		r = report.NodeReport{}
		if err := json.Unmarshal(body, &r); err != nil {
			n.t.Fatalf("the agent's report: %v\n%s", err, body)
		}
		var missing []string
		for _, w := range wants {
			if m := w(r); m != "" {
				missing = append(missing, m)
			}
		}
		if len(missing) == 0 {
			return ""
		}
		return strings.Join(missing, "; ") + "\n" + r.Text(time.Now())
	})
	return r
}

// is tells whether the agent's report is as wanted now. The agent must run; its socket comes a moment after its start.
func (n *node) is(wants ...want) bool {
	n.t.Helper()
	body, err := n.status(n.t.Context())
	if err != nil {
		return false
	}
	var r report.NodeReport
	if err := json.Unmarshal(body, &r); err != nil {
		n.t.Fatalf("the agent's report: %v\n%s", err, body)
	}
	return !slices.ContainsFunc(wants, func(w want) bool { return w(r) != "" })
}

// ready wants the node to be Ready.
func ready(r report.NodeReport) string {
	if r.Ready {
		return ""
	}
	return "the node is not Ready"
}

// notReady wants the node not to be Ready.
func notReady(r report.NodeReport) string {
	if !r.Ready {
		return ""
	}
	return "the node is Ready"
}

// condition wants a condition to have a status, and a message with all the texts in it.
func condition(typ string, status report.ConditionStatus, texts ...string) want {
	return func(r report.NodeReport) string {
		c := r.Condition(typ)
		if c.Status != status {
			return fmt.Sprintf("%s is %s, not %s", typ, c.Status, status)
		}
		return lacks(typ, c.Reason+": "+c.Message, texts)
	}
}

// registry wants a registry to have a state, and a message with all the texts in it.
func registry(host string, state report.RegistryState, texts ...string) want {
	return func(r report.NodeReport) string {
		i := slices.IndexFunc(r.Registries, func(reg report.Registry) bool { return reg.Host == host })
		if i < 0 || r.Registries[i].State != state {
			return fmt.Sprintf("registry %s is not %s", host, state)
		}
		return lacks("registry "+host, r.Registries[i].Message, texts)
	}
}

// imageIs wants an image to be in a phase, and a message with all the texts in it.
func imageIs(name string, phase report.ImagePhase, texts ...string) want {
	return func(r report.NodeReport) string {
		i := slices.IndexFunc(r.Images, func(img report.Image) bool { return img.Name == name })
		if i < 0 || r.Images[i].Phase != phase {
			return fmt.Sprintf("image %s is not %s", name, phase)
		}
		return lacks("image "+name, r.Images[i].Message, texts)
	}
}

// cameBy wants an image to have been prepared in a way: where that is left to hotplate, directly.
func cameBy(name string, way config.Way) want {
	wanted := prefetch.Direct
	if way == config.WayAPI {
		wanted = prefetch.API
	}
	return func(r report.NodeReport) string {
		i := slices.IndexFunc(r.Images, func(img report.Image) bool { return img.Name == name })
		if i < 0 || r.Images[i].Way != string(wanted) {
			return fmt.Sprintf("image %s did not come by the way %s", name, wanted)
		}
		return ""
	}
}

func lacks(what, got string, texts []string) string {
	for _, text := range texts {
		if !strings.Contains(got, text) {
			return fmt.Sprintf("%s says %q, without %q", what, got, text)
		}
	}
	return ""
}

// get asks the agent's HTTP listener, and returns the status line and the body.
func (n *node) get(path string) string {
	n.t.Helper()
	resp, err := http.Get("http://" + n.listen + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return resp.Status + "\n" + string(body)
}

const (
	// waitLimit is when a wait gives up: far beyond what anything takes.
	waitLimit = 3 * time.Minute
	pollEvery = 20 * time.Millisecond
)

// waitFor polls until cond says that nothing is missing.
func waitFor(t *testing.T, what string, cond func() (missing string)) {
	t.Helper()
	deadline := time.Now().Add(waitLimit)
	for {
		missing := cond()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %s", what, missing)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the test ended while waiting for %s: %s", what, missing)
		case <-time.After(pollEvery):
		}
	}
}

func tail(s string) string {
	const most = 24 << 10
	return s[max(0, len(s)-most):]
}
