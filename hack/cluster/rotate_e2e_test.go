//go:build e2e

package cluster

import (
	"context"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// private is a registry with logins behind a proxy whose CA nobody knows, and which both change.
type private struct {
	*site
	registry *rig.Registry
	proxy    *rig.Proxy
	password string
}

const (
	privateBehind = "127.0.0.1:5001"
	privateFront  = "10.77.0.1:5443"
	privateHost   = "private.example.com"
)

// rotate gives it another CA and another password, and writes both into the Secrets; and its one tag another image, whose digest it
// returns.
func (p *private) rotate(password string) (digest string) {
	p.Helper()
	users := map[string]string{"robot": password}
	var err error
	if p.registry == nil {
		p.registry, err = p.c.StartOtherRegistry(p.Context(), rig.RegistryConfig{Dir: p.TempDir(), Addr: privateBehind, Users: users})
	} else {
		err = p.registry.SetUsers(p.Context(), users)
	}
	if err != nil {
		p.Fatal(err)
	}
	ca := rigtest.CA(p.T)
	cert, key, err := ca.Issue(privateFront)
	if err != nil {
		p.Fatal(err)
	}
	if p.proxy != nil {
		if err := p.proxy.Close(); err != nil {
			p.Fatal(err)
		}
	}
	if p.proxy, err = p.c.StartProxy(rig.ProxyConfig{Upstream: p.registry.URL(), Addr: privateFront, CertPEM: cert, KeyPEM: key}); err != nil {
		p.Fatal(err)
	}
	p.password = password
	p.secret("private-ca", corev1.SecretTypeOpaque, map[string]string{"ca.crt": string(ca.PEM())})
	p.secret("private-login", corev1.SecretTypeBasicAuth, map[string]string{"username": "robot", "password": password})
	img, err := rig.BusyboxImage(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	img, ok := mutate.Annotations(img, map[string]string{"rotation": strings.TrimPrefix(password, "hunter2-")}).(v1.Image)
	if !ok {
		p.Fatal("what was an image is none any more")
	}
	if digest, err = rig.Push(p.Context(), privateFront+"/team/tool:now", img, rig.PushOptions{CA: ca.PEM(), Username: "robot",
		Password: password, Dial: p.c.Dial}); err != nil {
		p.Fatal(err)
	}
	return digest
}

// holds waits until every node says that the image tool with that digest is Ready on it.
func (p *private) holds(digest string) {
	p.Helper()
	for _, n := range p.c.Nodes() {
		p.await(n.Name+" to have "+digest, func(context.Context) error {
			is, err := p.statusOf(n.Name)
			if err != nil {
				return err
			}
			for _, img := range is.Images {
				if img.Name == "tool" && img.Digest == digest && img.State == coordinator.ImageReady {
					return nil
				}
			}
			return fmt.Errorf("it has %+v", is.Images)
		})
	}
}

func (s *site) secret(name string, kind corev1.SecretType, data map[string]string) {
	s.Helper()
	secrets := s.client.CoreV1().Secrets(namespace)
	is := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, StringData: data}
	_, err := secrets.Update(s.Context(), is, metav1.UpdateOptions{})
	if err != nil {
		_, err = secrets.Create(s.Context(), is, metav1.CreateOptions{})
	}
	if err != nil {
		s.Fatal(err)
	}
}

func rotated(s *site) string {
	p := &private{site: s}
	defer func() {
		if p.proxy != nil {
			p.proxy.Close()
		}
		if p.registry != nil {
			p.registry.Close()
		}
	}()
	daemons := s.daemons()
	digest := p.rotate("hunter2-first")
	s.config(fmt.Sprintf(`apiVersion: hotplate.dev/v1alpha1
registries:
- host: %s
  upstream: Deny
  mirrors: [{url: "https://%s", ca: [site]}]
- host: %s
  upstream: Deny
  mirrors: [{url: "https://%s", ca: [private], credentials: login}]
certs:
  bundles:
  - {name: site, configMap: {name: site-ca}}
  - {name: private, secret: {name: private-ca}}
credentials: [{name: login, secret: private-login}]
cluster: {resolveInterval: 30s}
images:
- {name: llama, ref: %s/models/llama:v1}
- {name: tool, ref: %s/team/tool:now}
`, host, s.c.Front().Host(), privateHost, privateFront, host, privateHost))
	s.allBecome("True Ready: 2 of 2 images", "image.hotplate.dev/tool=ready")
	p.holds(digest)
	for _, password := range []string{"hunter2-second", "hunter2-third"} { // nothing else changes
		p.holds(p.rotate(password))
	}
	s.allBecome("True Ready: 2 of 2 images", "image.hotplate.dev/tool=ready")
	s.configure(fmt.Sprintf("[{name: llama, ref: %s/models/llama:v1}]", host))
	s.allBecome("True Ready: 1 of 1 images")
	s.sameDaemons(daemons)
	for _, secret := range []string{"hunter2-first", "hunter2-second", "hunter2-third"} {
		for _, component := range []string{"agent", "coordinator"} {
			out := s.kubectl("logs", "-n", namespace, "-l", "app.kubernetes.io/component="+component, "--tail=-1")
			if strings.Contains(out, secret) {
				s.Errorf("a password is in the log of an %s", component)
			}
		}
	}
	return "CA, password and the image behind a tag changed twice, and nothing else; each image came to every node; containerd was not restarted; " +
		"no password in a log"
}

// daemons are the processes of containerd and when they began, by node.
func (s *site) daemons() string {
	s.Helper()
	var all strings.Builder
	for _, n := range s.c.Nodes() {
		out, err := n.Systemctl(s.Context(), "show", "--value", "-p", "MainPID", "-p", "ActiveEnterTimestampMonotonic", "containerd")
		if err != nil {
			s.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s\n", n.Name, strings.Join(strings.Fields(out), " "))
	}
	return all.String()
}

// sameDaemons checks that no containerd was restarted.
func (s *site) sameDaemons(before string) {
	s.Helper()
	if now := s.daemons(); now != before {
		s.Errorf("containerd was restarted:\n%s\nbefore\n%s", now, before)
	}
}

// transitions are when nodes became what they are, by node.
func (s *site) transitions() map[string]string {
	s.Helper()
	all := map[string]string{}
	for _, n := range s.c.Nodes() {
		is, err := s.node(s.Context(), n.Name)
		if err != nil {
			s.Fatal(err)
		}
		for _, c := range is.Status.Conditions {
			if c.Type == "HotplateReady" {
				all[n.Name] = fmt.Sprint(c.Status, " since ", c.LastTransitionTime)
			}
		}
	}
	return all
}

func (s *site) leader(ctx context.Context) (string, error) {
	lease, err := s.client.CoordinationV1().Leases(namespace).Get(ctx, "hotplate-coordinator", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", err
	}
	return *lease.Spec.HolderIdentity, nil
}
