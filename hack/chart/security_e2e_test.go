//go:build e2e

package main

import (
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// podsMayDoNoMore looks at every pod with every set of values.
func podsMayDoNoMore(t *testing.T, all objects) {
	for _, p := range all.pods(t) {
		is := p.container().SecurityContext
		agent := p.name == "DaemonSet/hotplate-agent"
		privileged := agent && strings.Contains(t.Name(), "/privileged/")
		if is.Privileged == nil || *is.Privileged != privileged {
			t.Errorf("%s: privileged is %v", p.name, is.Privileged)
		}
		if is.ReadOnlyRootFilesystem == nil || !*is.ReadOnlyRootFilesystem {
			t.Errorf("%s can write its root filesystem", p.name)
		}
		if !privileged {
			checkCapabilities(t, p, agent)
		}
		if pod := p.spec.SecurityContext; pod.SeccompProfile == nil || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: seccomp is %+v", p.name, pod.SeccompProfile)
		}
		if !agent {
			checkUnprivileged(t, p)
		}
		if limits := p.container().Resources.Limits; limits.Memory().IsZero() {
			t.Errorf("%s has no limit of memory", p.name)
		}
	}
}

func checkCapabilities(t *testing.T, p pod, agent bool) {
	t.Helper()
	is := p.container().SecurityContext
	if is.AllowPrivilegeEscalation == nil || *is.AllowPrivilegeEscalation {
		t.Errorf("%s may get more than it has", p.name)
	}
	if !slices.Equal(is.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s drops %v", p.name, is.Capabilities.Drop)
	}
	var want []corev1.Capability
	if agent && !strings.Contains(t.Name(), "publish_only/") {
		want = []corev1.Capability{"SYS_ADMIN", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "MKNOD"}
	}
	if !slices.Equal(is.Capabilities.Add, want) {
		t.Errorf("%s has %v, want %v", p.name, is.Capabilities.Add, want)
	}
}

// checkUnprivileged wants nothing of the node.
func checkUnprivileged(t *testing.T, p pod) {
	t.Helper()
	if is := p.spec; is.HostNetwork || is.HostPID || is.HostIPC {
		t.Errorf("%s has namespaces of the node", p.name)
	}
	if is := p.spec.SecurityContext; is.RunAsNonRoot == nil || !*is.RunAsNonRoot || *is.RunAsUser == 0 {
		t.Errorf("%s may run as root", p.name)
	}
	for _, v := range p.spec.Volumes {
		if v.HostPath != nil {
			t.Errorf("%s mounts %s of the node", p.name, v.HostPath.Path)
		}
	}
}

// mountsAreDirectories: a socket file would go stale when its owner makes a new one.
func mountsAreDirectories(t *testing.T, all objects) {
	spec := all.agent(t).Spec.Template.Spec
	types := []corev1.HostPathType{corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate}
	for _, v := range spec.Volumes {
		switch {
		case v.HostPath == nil:
		case v.HostPath.Type == nil || !slices.Contains(types, *v.HostPath.Type):
			t.Errorf("%s is mounted as %v", v.HostPath.Path, v.HostPath.Type)
		case slices.Contains([]string{"/", "/run", "/var", "/var/lib", "/etc", "/dev", "/proc", "/sys", "/root", "/home"}, v.HostPath.Path),
			strings.HasSuffix(v.HostPath.Path, ".sock"):
			t.Errorf("%s is mounted", v.HostPath.Path)
		}
	}
	for _, m := range spec.Containers[0].VolumeMounts {
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional || m.SubPath != "" {
			t.Errorf("%+v", m)
		}
	}
}

// probesAreHTTP: while containerd is away nothing can be executed in a container.
func probesAreHTTP(t *testing.T, all objects) {
	for _, p := range all.pods(t) {
		c := p.container()
		if c.Lifecycle != nil {
			t.Errorf("%s has %+v", p.name, c.Lifecycle)
		}
		probes := 0
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe == nil {
				continue
			}
			probes++
			if h := probe.HTTPGet; h == nil || !slices.Contains([]string{"/healthz", "/readyz"}, h.Path) {
				t.Errorf("%s is probed by %+v", p.name, probe.ProbeHandler)
			}
		}
		if lasts := p.spec.RestartPolicy == "" || p.spec.RestartPolicy == corev1.RestartPolicyAlways; lasts && probes < 2 {
			t.Errorf("%s has %d probes", p.name, probes)
		}
	}
}

// TestWhoHearsTheAgent: the node alone, unless metrics are to be read.
func TestWhoHearsTheAgent(t *testing.T) {
	h := atHelm(t)
	for values, want := range map[string]struct{ listen, host, port string }{
		"":                                       {"127.0.0.1:9464", "127.0.0.1", "9464"},
		"agent: {port: 9999}":                    {"127.0.0.1:9999", "127.0.0.1", "9999"},
		"agent: {metrics: true}":                 {"[$(HOST_IP)]:9464", "", "9464"},
		"agent: {metrics: true, port: 9999}\n":   {"[$(HOST_IP)]:9999", "", "9999"},
		"agent: {publishOnly: true, port: 9999}": {"127.0.0.1:9999", "127.0.0.1", "9999"},
	} {
		spec := h.objects(t, values).agent(t).Spec.Template.Spec
		c := spec.Containers[0]
		if got := flagOf(c, "listen"); got != want.listen || !spec.HostNetwork {
			t.Errorf("%q: it listens on %s", values, got)
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe.HTTPGet.Host != want.host || probe.HTTPGet.Port.String() != want.port {
				t.Errorf("%q: it is probed at %+v", values, probe.HTTPGet)
			}
		}
		knows := slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
			return e.Name == "HOST_IP" && e.ValueFrom.FieldRef.FieldPath == "status.hostIP"
		})
		if knows != (want.host == "") {
			t.Errorf("%q: the node's address is in its environment: %v", values, knows)
		}
	}
}

// tokensAreForOne: the agent's token for the coordinator is for nobody else, and nothing but it proves the node.
func tokensAreForOne(t *testing.T, all objects) {
	for _, p := range all.pods(t) {
		if p.spec.AutomountServiceAccountToken == nil || !*p.spec.AutomountServiceAccountToken {
			t.Errorf("%s cannot ask the API", p.name)
		}
		for _, v := range p.spec.Volumes {
			if v.Projected == nil {
				continue
			}
			token := v.Projected.Sources[0].ServiceAccountToken
			if p.name != "DaemonSet/hotplate-agent" || len(v.Projected.Sources) != 1 || token.Audience != "hotplate-coordinator" {
				t.Errorf("%s: %s", p.name, asJSON(t, v))
			}
			n := slices.IndexFunc(p.container().VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
			if at := path.Join(p.container().VolumeMounts[n].MountPath, token.Path); at != "/var/run/secrets/hotplate.dev/coordinator/token" {
				t.Errorf("the token is at %s", at)
			}
		}
	}
}

// TestSystemdIsMountedWhereItMayBeUsed and nowhere else: whoever has it is root on the node.
func TestSystemdIsMountedWhereItMayBeUsed(t *testing.T) {
	h := atHelm(t)
	for values, want := range map[string]bool{
		"": true, "agent: {privileged: true}": true, "agent: {mayRestart: false}": false, "agent: {publishOnly: true}": false,
		"preset: k3s": false, "preset: rke2": false, "preset: microk8s": false,
	} {
		spec := h.objects(t, values).agent(t).Spec.Template.Spec
		mounted := slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
			return v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/run/systemd")
		})
		if mounted != want {
			t.Errorf("%q: systemd is mounted: %v", values, mounted)
		}
		if spec.HostPID {
			t.Errorf("%q: it sees the node's processes", values)
		}
	}
}
