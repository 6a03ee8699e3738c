package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

const (
	user, password = "robot", "correct-horse"
	// The images as pods write them, and the Harbor project that holds docker.io's images.
	model   = "docker.io/acme/llama:v1"
	small   = "docker.io/acme/tokenizer:"
	project = "dockerhub"
)

// demo is the play: the real parts, and what was measured.
type demo struct {
	dir    string
	size   int64
	result result

	ca         *rig.CA
	registry   *rig.Registry // "Harbor"
	second     *rig.Registry // its replica
	containerd *rig.Containerd
	pid        int // of containerd
	cri        *rig.CRI
	agent      *agentProcess
	before     map[string]string // certs.d before the agent
	smalls     int               // small images pushed
}

func (d *demo) path(elem ...string) string { return filepath.Join(append([]string{d.dir}, elem...)...) }

func (d *demo) hostsDir() string { return d.path("certs.d") }

// play runs the acts in order.
func (d *demo) play(ctx context.Context) error {
	for _, act := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"A registry with TLS from a private CA and a password, and a model image in its project " + project, d.setUp},
		{"The same pull by plain containerd, to compare", d.plainPull},
		{"containerd, and hotplate-agent with one config file", d.startAgent},
		{"The files it wrote, and the proof that containerd obeys them", d.showHosts},
		{"The model image, layer by layer, until it is Ready", d.watchImage},
		{"Somebody changes a file: it is put back at once", d.drift},
		{"The CA is rotated, first in the config, then at the registry", d.rotate},
		{"Upstream: from Allow to Deny, and a second mirror", d.deny},
		{"Uninstall: certs.d is as it was", d.uninstall},
	} {
		fmt.Printf("\n== %s\n", act.title)
		if err := act.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", act.title, err)
		}
	}
	return nil
}

// close ends everything that play started.
func (d *demo) close() error {
	var errs []error
	if d.agent != nil {
		errs = append(errs, d.agent.stop())
	}
	if d.cri != nil {
		errs = append(errs, d.cri.Close())
	}
	if d.containerd != nil {
		errs = append(errs, d.containerd.Close())
	}
	for _, r := range []*rig.Registry{d.registry, d.second} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	for _, big := range []string{"containerd", "plain", "registry", "second"} {
		errs = append(errs, os.RemoveAll(d.path(big)))
	}
	return errors.Join(errs...)
}

func (d *demo) setUp(ctx context.Context) (err error) {
	if d.ca, err = rig.NewCA("Corp CA 1"); err != nil {
		return err
	}
	if d.registry, err = d.startRegistry(ctx, "registry"); err != nil {
		return err
	}
	fmt.Printf("registry %s\n", d.registry.URL())
	img, err := rig.BuildModelImage(rig.ModelSpec{RawSize: d.size * 2 / 3, GzipLayers: 4, GzipSize: d.size / 6})
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return err
		}
		d.result.ImageBytes += size
	}
	start := time.Now()
	digest, err := rig.Push(ctx, d.registry.Host()+"/"+project+"/acme/llama:v1", img, d.pushOptions())
	if err != nil {
		return err
	}
	fmt.Printf("pushed %s/acme/llama:v1, %s in %d layers, %s (%.1f s)\n", project, report.Bytes(d.result.ImageBytes),
		len(layers), digest, time.Since(start).Seconds())
	return nil
}

func (d *demo) startRegistry(ctx context.Context, name string) (*rig.Registry, error) {
	cert, key, err := d.ca.Issue("127.0.0.1")
	if err != nil {
		return nil, err
	}
	return rig.StartRegistry(ctx, rig.RegistryConfig{Dir: d.path(name), CertPEM: cert, KeyPEM: key,
		Users: map[string]string{user: password}})
}

func (d *demo) pushOptions() rig.PushOptions {
	return rig.PushOptions{CA: d.ca.PEM(), Username: user, Password: password}
}

// pushSmall pushes a new small image to a registry and returns the name that pods use for it.
func (d *demo) pushSmall(ctx context.Context, r *rig.Registry) (string, error) {
	d.smalls++
	img, err := rig.BuildModelImage(rig.ModelSpec{Seed: uint64(d.smalls), GzipLayers: 1, GzipSize: 1 << 20})
	if err != nil {
		return "", err
	}
	tag := fmt.Sprintf("v%d", d.smalls)
	_, err = rig.Push(ctx, fmt.Sprintf("%s/%s/acme/tokenizer:%s", r.Host(), project, tag), img, d.pushOptions())
	return small + tag, err
}

// kubeletPull pulls as the kubelet does, with the pod's imagePullSecret.
func kubeletPull(ctx context.Context, cri *rig.CRI, ref string) error {
	_, err := cri.PullImage(ctx, ref, &runtimeapi.AuthConfig{Username: user, Password: password})
	return err
}

// plainPull pulls the model image by CRI on a fresh containerd whose hosts.toml was written by hand.
func (d *demo) plainPull(ctx context.Context) (err error) {
	hosts := d.path("plain", "certs.d")
	files := map[string][]byte{
		"docker.io/hosts.toml": fmt.Appendf(nil, `server = "%[1]s/v2/%[2]s"
override_path = true
ca = "%[3]s"
[host."%[1]s/v2/%[2]s"]
override_path = true
ca = "%[3]s"
`, d.registry.URL(), project, filepath.Join(hosts, "ca.pem")),
		"ca.pem": d.ca.PEM(),
	}
	if err := writeFiles(hosts, files); err != nil {
		return err
	}
	c, err := rig.StartContainerd(ctx, rig.ContainerdConfig{Line: "2.4", Dir: d.path("plain"), HostsDir: hosts})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(), os.RemoveAll(d.path("plain"))) }()
	cri, err := rig.DialCRI(ctx, c.Address())
	if err != nil {
		return err
	}
	defer cri.Close()
	start := time.Now()
	if err := kubeletPull(ctx, cri, model); err != nil {
		return err
	}
	d.result.ContainerdSeconds = time.Since(start).Seconds()
	fmt.Printf("containerd %s with default settings: %.1f s\n", c.Version(), d.result.ContainerdSeconds)
	return nil
}

// configTemplate is the one config file of the demo.
var configTemplate = template.Must(template.New("config").Parse(`apiVersion: hotplate.dev/v1alpha1
registries:
- host: docker.io
  upstream: {{.Upstream}}
  mirrors:
{{- range .Mirrors}}
  - url: {{.}}
    path: dockerhub          # the Harbor project
    ca: [corp]
    credentials: harbor      # for prefetch; pods bring their own imagePullSecrets
{{- end}}
certs:
  bundles:
  - name: corp
    file: {{.Dir}}/corp-ca.pem
credentials:
- name: harbor
  usernameFile: {{.Dir}}/user
  passwordFile: {{.Dir}}/password
images:
- name: llama
  ref: docker.io/acme/llama:v1
`))

func (d *demo) writeConfig(upstream string, mirrors ...*rig.Registry) error {
	var b bytes.Buffer
	var urls []string
	for _, m := range mirrors {
		urls = append(urls, m.URL())
	}
	err := configTemplate.Execute(&b, map[string]any{"Upstream": upstream, "Mirrors": urls, "Dir": d.path("etc")})
	if err != nil {
		return err
	}
	return writeFiles(d.path("etc"), map[string][]byte{"config.yaml": b.Bytes()})
}

func (d *demo) startAgent(ctx context.Context) (err error) {
	// Somebody else's directory: hotplate leaves it alone, and the uninstall too.
	err = writeFiles(d.hostsDir(), map[string][]byte{"quay.io/hosts.toml": []byte("server = \"https://quay.io\"\n")})
	if err != nil {
		return err
	}
	if d.before, err = readTree(d.hostsDir()); err != nil {
		return err
	}
	d.containerd, err = rig.StartContainerd(ctx, rig.ContainerdConfig{Line: "2.4", Dir: d.path("containerd"),
		HostsDir: d.hostsDir()})
	if err != nil {
		return err
	}
	if d.cri, err = rig.DialCRI(ctx, d.containerd.Address()); err != nil {
		return err
	}
	d.pid = d.containerd.PID()
	d.result.ContainerdVersion = d.containerd.Version()
	err = writeFiles(d.path("etc"), map[string][]byte{
		"corp-ca.pem": d.ca.PEM(), "user": []byte(user), "password": []byte(password)})
	if err != nil {
		return err
	}
	if err := d.writeConfig("Allow", d.registry); err != nil {
		return err
	}
	if err := printFile(d.path("etc", "config.yaml")); err != nil {
		return err
	}
	d.agent, err = startAgent(d)
	return err
}
