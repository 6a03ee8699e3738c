package apply

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// childEnv holds the directory of a child of TestKillNineAtRandomMoments.
const childEnv = "HOTPLATE_APPLY_CHILD"

// killTrees are what the child applies in turn. They need no certificates of this process: the CAs are read back.
func killTrees(dir string) ([]hostconfig.Tree, error) {
	var trees []hostconfig.Tree
	for _, name := range []string{"one", "two", "three"} {
		tree := hostconfig.Tree{}
		for _, p := range []string{
			"docker.io/hosts.toml", "a.example.com_5000_/hosts.toml", ".hotplate/ca-" + name + ".pem",
		} {
			data, err := os.ReadFile(filepath.Join(dir, "trees", name, p))
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			tree[p] = hostconfig.File{Mode: 0o644, Data: data}
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

// applyForever is the child: it applies until it is killed, and writes a line each time.
func applyForever(dir string) {
	trees, err := killTrees(dir)
	if err == nil {
		err = func() error {
			ctx := context.Background()
			h, err := Open(ctx, killConfig(dir))
			if err != nil {
				return err
			}
			for n := 0; ; n++ {
				// What was adopted is given back in between, as the second tree does not want it.
				opts := Options{Adopt: map[string]bool{"docker.io": true}}
				if _, err := h.Apply(ctx, trees[n%len(trees)], opts); err != nil {
					return err
				}
				if _, err := fmt.Println(n); err != nil {
					return err // the parent is gone
				}
			}
		}()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func killConfig(dir string) Config {
	return Config{
		HostsDir: filepath.Join(dir, "certs.d"), StateDir: filepath.Join(dir, "state"), RetireDelay: time.Nanosecond,
		Log: quietLog(),
	}
}

func TestKillNineAtRandomMoments(t *testing.T) {
	const kills = 50
	dir := memDir(t)
	r := &rig{t: t, top: dir, hosts: filepath.Join(dir, "certs.d"), dir: filepath.Join(dir, "state"), clock: newClock()}
	r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n[host.\"https://theirs.example.com\"]\n")
	r.write("docker.io/theirs.crt", "theirs")
	r.age("docker.io")
	original := snapshot(t, r.hosts)

	allowed := map[string]map[string]bool{"docker.io": {}, "a.example.com:5000": {}}
	see := func(hosts string) {
		for host := range allowed {
			allowed[host][view(hosts, host)] = true
		}
	}
	see(r.hosts)
	for name, body := range map[string]map[string]string{
		"one":   {"docker.io": "https://one.example.com", "a.example.com_5000_": "https://a.example.com"},
		"two":   {"a.example.com_5000_": "https://b.example.com"},
		"three": {"docker.io": "https://three.example.com"},
	} {
		ca := fmt.Sprintf("ca-%s.pem", name)
		tree := &rig{t: t, hosts: filepath.Join(dir, "trees", name)}
		tree.write(".hotplate/"+ca, string(cas()["one"].PEM()))
		for host, url := range body {
			line := fmt.Sprintf("ca = \"../.hotplate/%s\"\n", ca)
			tree.write(host+"/hosts.toml", fmt.Sprintf("server = %q\n%s[host.%q]\n%s", url, line, url, line))
		}
		see(tree.hosts)
	}

	for round := range kills {
		if applied := runChild(t, dir); applied == 0 {
			t.Fatalf("round %d: the child did not apply once", round)
		}
		for host := range allowed {
			if v := view(r.hosts, host); !allowed[host][v] {
				t.Fatalf("killed in round %d: containerd sees for %s: %s", round, host, v)
			}
		}
	}
	h, err := Open(context.Background(), killConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	r.uninstall(h)
	r.close(h)
	wantSame(t, "hosts directory after uninstall", original, snapshot(t, r.hosts))
}

// runChild starts a child, kills it at a random moment, and returns how often it has applied.
func runChild(t *testing.T, dir string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	applied := 0
	for want := 1 + rand.IntN(6); applied < want && lines.Scan(); {
		applied++
	}
	time.Sleep(rand.N(2 * time.Millisecond)) // any moment of an Apply, not only its end
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		applied++
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return applied
}
