package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// showHosts waits for the probe's verdict and shows the files.
func (d *demo) showHosts(ctx context.Context) error {
	r, err := d.agent.until(ctx, "a verdict of the probe", func(r report.NodeReport) bool {
		return r.Condition(report.HostsLive).Status != report.Unknown
	})
	if err != nil {
		return err
	}
	d.result.Verdict = r.Condition(report.HostsLive).Message
	fmt.Printf("verdict: %s\n\n", d.result.Verdict)
	if r.Condition(report.HostsLive).Status != report.True {
		return errors.New("containerd does not obey the hosts directory")
	}
	if err := printFile(d.path("certs.d", "docker.io", "hosts.toml")); err != nil {
		return err
	}
	return d.explain(ctx)
}

func (d *demo) explain(ctx context.Context) error {
	out, err := d.program(ctx, "hotplate", "explain", "--hosts-dir", d.hostsDir(), "--containerd-version",
		d.containerd.Version(), model)
	fmt.Print(indent(out))
	return err
}

// watchImage shows the layers until the image is Ready, and the image as CRI lists it.
func (d *demo) watchImage(ctx context.Context) error {
	r, err := d.agent.watchLayers(ctx)
	if err != nil {
		return err
	}
	d.result.HotplateSeconds = time.Since(d.agent.started).Seconds()
	fmt.Printf("Ready %.1f s after the agent's start; containerd alone took %.1f s\n", d.result.HotplateSeconds,
		d.result.ContainerdSeconds)
	img, err := d.cri.ImageStatus(ctx, model)
	if err != nil {
		return err
	}
	fmt.Printf("CRI lists it: %s %v pinned=%v\n", img.GetId(), img.GetRepoTags(), img.GetPinned())
	if !img.GetPinned() || !r.Ready {
		return fmt.Errorf("want it pinned and the node Ready: pinned=%v ready=%v", img.GetPinned(), r.Ready)
	}
	out, err := d.program(ctx, "hotplate", "status", "--state-dir", d.path("state"))
	fmt.Print("\n", indent(out))
	return err
}

// drift changes a file of the agent's and waits until it is put back.
func (d *demo) drift(ctx context.Context) error {
	path := d.path("certs.d", "docker.io", "hosts.toml")
	want, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := os.WriteFile(path, []byte("# written by another tool\n"), 0o644); err != nil {
		return err
	}
	err = waitFor(ctx, "the file to be put back", func() (bool, error) {
		got, err := os.ReadFile(path)
		return string(got) == string(want), err
	})
	d.result.DriftRepairSeconds = time.Since(start).Seconds()
	fmt.Printf("put back after %.3f s\n", d.result.DriftRepairSeconds)
	return err
}

// rotate replaces the CA in the config before the registry has a certificate of the new one, pulls, then replaces the
// registry's certificate and pulls again.
func (d *demo) rotate(ctx context.Context) error {
	next, err := rig.NewCA("Corp CA 2")
	if err != nil {
		return err
	}
	if err := writeFiles(d.path("etc"), map[string][]byte{"corp-ca.pem": next.PEM()}); err != nil {
		return err
	}
	_, err = d.agent.until(ctx, "both CAs to be trusted", func(r report.NodeReport) bool { return overlap(r) })
	if err != nil {
		return err
	}
	fmt.Println("the config names Corp CA 2 only; the registry still has a certificate of Corp CA 1: both are trusted")
	if err := d.pullSmall(ctx, d.registry); err != nil {
		return err
	}
	cert, key, err := next.Issue("127.0.0.1")
	if err != nil {
		return err
	}
	d.ca = next
	if err := d.registry.Rotate(ctx, cert, key); err != nil {
		return err
	}
	if err := d.pullSmall(ctx, d.registry); err != nil {
		return err
	}
	_, err = d.agent.until(ctx, "Corp CA 1 to be dropped", func(r report.NodeReport) bool {
		return !overlap(r) && r.Condition(report.RegistriesConfigured).Status == report.True
	})
	if err != nil {
		return err
	}
	fmt.Println("the registry has a certificate of Corp CA 2: Corp CA 1 is dropped")
	return d.pullSmall(ctx, d.registry)
}

func overlap(r report.NodeReport) bool {
	for _, reg := range r.Registries {
		for _, m := range reg.Mirrors {
			if m.Overlap {
				return true
			}
		}
	}
	return false
}

// pullSmall pushes a new image and pulls it as the kubelet does.
func (d *demo) pullSmall(ctx context.Context, from *rig.Registry) error {
	ref, err := d.pushSmall(ctx, from)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := kubeletPull(ctx, d.cri, ref); err != nil {
		return err
	}
	fmt.Printf("kubelet's pull of %s works (%.2f s)\n", ref, time.Since(start).Seconds())
	return nil
}

// deny makes the mirrors a wall, adds a second one, and pulls while the first is down.
func (d *demo) deny(ctx context.Context) (err error) {
	if d.second, err = d.startRegistry(ctx, "second"); err != nil {
		return err
	}
	if err := d.writeConfig("Deny", d.registry, d.second); err != nil {
		return err
	}
	_, err = d.agent.until(ctx, "the second mirror in force", func(r report.NodeReport) bool {
		return len(r.Registries) == 1 && len(r.Registries[0].Mirrors) == 2 && r.Ready
	})
	if err != nil {
		return err
	}
	if err := d.explain(ctx); err != nil {
		return err
	}
	if err := d.registry.Stop(ctx); err != nil {
		return err
	}
	fmt.Println("the first mirror is down now")
	if err := d.pullSmall(ctx, d.second); err != nil {
		return err
	}
	return d.samePID()
}

// samePID checks that containerd was never restarted.
func (d *demo) samePID() error {
	if pid := d.containerd.PID(); pid != d.pid {
		d.result.ContainerdRestarted = true
		return fmt.Errorf("containerd was process %d and is %d", d.pid, pid)
	}
	fmt.Printf("containerd is still process %d: no restart\n", d.pid)
	return nil
}

func (d *demo) uninstall(ctx context.Context) error {
	if err := d.agent.stop(); err != nil {
		return err
	}
	out, err := d.program(ctx, "hotplate-agent", "uninstall", "--address", d.containerd.Address(), "--hosts-dir",
		d.hostsDir(), "--state-dir", d.path("state"))
	fmt.Print(indent(out))
	if err != nil {
		return err
	}
	after, err := readTree(d.hostsDir())
	if err != nil {
		return err
	}
	if diff := cmp.Diff(d.before, after); diff != "" {
		return fmt.Errorf("certs.d is not as it was:\n%s", diff)
	}
	d.result.Restored = true
	fmt.Println("certs.d is byte for byte what it was before the agent")
	return d.samePID()
}

// indent sets a program's output off.
func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	return "    " + strings.ReplaceAll(s, "\n", "\n    ") + "\n"
}
