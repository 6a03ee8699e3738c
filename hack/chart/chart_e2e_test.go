//go:build e2e

package main

import (
	"bytes"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/generated"
)

// everything is on that can be at once.
const everything = `
image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: pull}]
config: {apiVersion: hotplate.dev/v1alpha1}
extraTaints: [{key: sku, value: gpu, effect: NoSchedule}, {key: example.com/agent-not-ready}]
agent:
  nodeSelector: {nvidia.com/gpu.present: "true"}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  tolerations: [{key: b, operator: Exists}]
  hostPID: true
  extraHostPaths: [{path: /usr/bin}, {path: /etc/hotplate, readOnly: false}]
  env: {HTTPS_PROXY: "http://proxy.example.com:3128", NO_PROXY: "10.0.0.0/8"}
  metrics: true
  port: 9999
  appArmorProfile: {type: Unconfined}
  seLinuxOptions: {type: spc_t}
  podLabels: {team: a}
  podAnnotations: {note: b}
coordinator:
  replicas: 3
  nodeSelector: {pool: system}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  tolerations: [{key: c, operator: Exists}]
  tlsSecret: cert-manager-made-it
  env: {HTTPS_PROXY: "http://proxy.example.com:3128"}
  appArmorProfile: {type: RuntimeDefault}
  seLinuxOptions: {level: "s0:c1"}
  podLabels: {team: a}
  podAnnotations: {note: b}
networkPolicy:
  enabled: true
  nodeCIDRs: [10.0.0.0/16, "fd00::/64"]
  statusFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{protocol: TCP, port: 443}]}]
monitoring: {serviceMonitor: true, prometheusRule: true, labels: {release: prometheus}}
`

// sets are the values with which what must always hold is looked at.
func sets(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{
		"nothing set": "", "everything": everything, "publish only": "agent: {publishOnly: true}",
		"privileged": "agent: {privileged: true}", "may not restart": "agent: {mayRestart: false}",
	}
	for name := range readPresets(t) {
		all["preset "+name] = "preset: " + name
		all["preset "+name+" with publish only"] = "preset: " + name + "\nagent: {publishOnly: true}"
	}
	return all
}

// TestAlways looks, with each of the sets, at what must always hold.
func TestAlways(t *testing.T) {
	h := atHelm(t)
	for name, values := range sets(t) {
		t.Run(name, func(t *testing.T) {
			all := h.objects(t, values)
			for property, test := range map[string]func(*testing.T, objects){
				"objects are ours": objectsAreOurs, "selectors find what they are for": selectorsFind, "RBAC": rbacIsExact,
				"paths are mounted": pathsAreMounted, "pods may do no more than they need": podsMayDoNoMore,
				"mounts are directories": mountsAreDirectories, "probes are HTTP": probesAreHTTP, "tokens": tokensAreForOne,
			} {
				t.Run(property, func(t *testing.T) { test(t, all) })
			}
		})
	}
}

func TestPlainManifestsAreUpToDate(t *testing.T) {
	h := atHelm(t)
	plain, err := renderPlain(t.Context(), h.program, read(t, filepath.Join(chartDir, "values.schema.json")))
	if err != nil {
		t.Fatal(err)
	}
	if err := (generated.File{Path: plainFile, Data: plain}).Verify(command); err != nil {
		t.Error(err)
	}
	all := decode(t, string(plain))
	if ns := find[*corev1.Namespace](t, all, "hotplate"); ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Errorf("the namespace has labels %v", ns.Labels)
	}
	for _, o := range all {
		if m := meta(t, o); strings.Contains(asJSON(t, m), "helm") {
			t.Errorf("%s is helm's: %s", nameOf(t, o), asJSON(t, m))
		}
	}
}

func TestLint(t *testing.T) {
	h := atHelm(t)
	for name, values := range sets(t) {
		t.Run(name, func(t *testing.T) {
			if out, err := h.run(t, "lint", "--strict", chartDir, "--values", h.write(t, values)); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestWithNothingSetNoNodeIsTouched(t *testing.T) {
	all := atHelm(t).objects(t, "")
	want := []string{
		"ClusterRole/hotplate-coordinator", "ClusterRoleBinding/hotplate-coordinator", "ConfigMap/hotplate-rollout", "DaemonSet/hotplate-agent",
		"Deployment/hotplate-coordinator", "Job/hotplate-release", "Pod/hotplate-check", "PodDisruptionBudget/hotplate-coordinator",
		"PriorityClass/hotplate", "Role/hotplate-agent", "Role/hotplate-coordinator", "RoleBinding/hotplate-agent",
		"RoleBinding/hotplate-coordinator", "Service/hotplate-coordinator", "ServiceAccount/hotplate-agent",
		"ServiceAccount/hotplate-coordinator",
	}
	if diff := cmp.Diff(want, all.names(t)); diff != "" {
		t.Error(diff)
	}
	if hooks := find[*batchv1.Job](t, all, "hotplate-release").Annotations["helm.sh/hook"]; hooks != "pre-delete" {
		t.Errorf("the Job that releases nodes runs at %s", hooks)
	}
	if hooks := find[*corev1.Pod](t, all, "hotplate-check").Annotations["helm.sh/hook"]; hooks != "test" {
		t.Errorf("the test runs at %s", hooks)
	}
}

// TestTheConfigIsAsItWasGiven gives each example as a document and as text.
func TestTheConfigIsAsItWasGiven(t *testing.T) {
	h := atHelm(t)
	examples, err := filepath.Glob("manifests/examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large-numbers.yaml")
	if err := os.WriteFile(large, []byte("apiVersion: hotplate.dev/v1alpha1\nprefetch: {memory: 268435456}\nimages:\n"+
		"- {name: a, ref: docker.io/a/b:v1, priority: 20000000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, example := range append(examples, large) {
		t.Run(filepath.Base(example), func(t *testing.T) {
			text := read(t, example)
			want, err := config.Decode(example, text)
			if err != nil {
				t.Fatal(err)
			}
			cm := find[*corev1.ConfigMap](t, h.objects(t, "config:\n"+indent(string(text), 2)), "hotplate-config")
			got, err := config.Decode("the ConfigMap", []byte(cm.Data["config.yaml"]))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("as a document it became\n%s", cm.Data["config.yaml"])
			}
			out, err := h.run(t, "template", "any-name", chartDir, "--namespace", namespace, "--set-file", "config="+example)
			if err != nil {
				t.Fatal(err)
			}
			cm = find[*corev1.ConfigMap](t, decode(t, out), "hotplate-config")
			if cm.Data["config.yaml"] != string(text) || len(cm.Data) != 1 {
				t.Errorf("as text it became\n%s", cm.Data["config.yaml"])
			}
		})
	}
}

func TestRefused(t *testing.T) {
	h := atHelm(t)
	for name, test := range map[string]struct{ values, says string }{
		"unknown value":             {"agnet: {}", "agnet"},
		"unknown value in a group":  {"agent: {privilegd: true}", "privilegd"},
		"unknown field of the API":  {"agent: {tolerations: [{key: a, operatr: Exists}]}", "operatr"},
		"unknown field of config":   {"config: {apiVersion: hotplate.dev/v1alpha1, registris: []}", "registris"},
		"deep in config":            {"config: {apiVersion: hotplate.dev/v1alpha1, registries: [{host: docker.io, mirors: []}]}", "mirors"},
		"config without version":    {"config: {registries: []}", "apiVersion"},
		"wrong type":                {"agent: {port: no}", "port"},
		"port out of range":         {"agent: {port: 70000}", "port"},
		"no such preset":            {"preset: talos", "preset"},
		"relative path":             {"paths: {hostsDir: etc/containerd}", "hostsDir"},
		"path that climbs":          {"paths: {stateDir: /var/lib/../../etc}", "stateDir"},
		"no state directory":        {`paths: {stateDir: ""}`, "stateDir"},
		"mount of the whole node":   {"agent: {extraHostPaths: [{path: /}]}", "extraHostPaths"},
		"digest of another kind":    {"image: {digest: md5:0}", "digest"},
		"effect of a taint":         {"extraTaints: [{key: a, effect: Evict}]", "extraTaints"},
		"no replicas":               {"coordinator: {replicas: 0}", "replicas"},
		"quantity":                  {"agent: {resources: {limits: {memory: lots}}}", "memory"},
		"hosts directory elsewhere": {"paths: {hostsDir: /opt/certs.d}", "is not in paths.configDir /etc/containerd"},
		"two at once":               {"agent: {privileged: true, publishOnly: true}", "exclude each other"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := h.template(t, test.values); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want %q\n%s", err, test.says, out)
			}
		})
	}
	for _, ns := range []string{"kube-system", "kube-public", "kube-node-lease"} {
		_, err := h.run(t, "template", "any-name", chartDir, "--namespace", ns)
		if err == nil || !strings.Contains(err.Error(), "a namespace of its own") {
			t.Errorf("%s: %v", ns, err)
		}
	}
}

// TestPartOfAnotherChart: helm gives such a chart a value of its own, global.
func TestPartOfAnotherChart(t *testing.T) {
	h := atHelm(t)
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "charts", "hotplate"), os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte("apiVersion: v2\nname: platform\nversion: 1.0.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := h.templateOf(t, dir, "global: {region: x}\nhotplate: {agent: {port: 9999}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := flagOf(pod{spec: decode(t, out).agent(t).Spec.Template.Spec}.container(), "listen"); got != "127.0.0.1:9999" {
		t.Errorf("it listens on %s", got)
	}
}

// objectsAreOurs: every object is in the release's namespace, or in none, and has our labels.
func objectsAreOurs(t *testing.T, all objects) {
	mapper := testrestmapper.TestOnlyStaticRESTMapper(scheme.Scheme)
	for _, o := range all {
		m, kind := meta(t, o), o.GetObjectKind().GroupVersionKind()
		want := namespace
		if mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version); err == nil && mapping.Scope.Name() == "root" {
			want = ""
		}
		if m.GetNamespace() != want {
			t.Errorf("%s is in namespace %q, want %q", nameOf(t, o), m.GetNamespace(), want)
		}
		if m.GetLabels()["app.kubernetes.io/name"] != "hotplate" {
			t.Errorf("%s has labels %v", nameOf(t, o), m.GetLabels())
		}
	}
}

// selectorsFind: of pods, and of ports by name.
func selectorsFind(t *testing.T, all objects) {
	pods := all.pods(t)
	selected := func(selector map[string]string) (names []string) {
		for _, p := range pods {
			if labels.SelectorFromSet(selector).Matches(labels.Set(p.labels)) {
				names = append(names, p.name)
			}
		}
		return names
	}
	check := func(name string, selector map[string]string, want string) {
		t.Helper()
		if got := selected(selector); !slices.Equal(got, []string{want}) {
			t.Errorf("%s selects %v, want %s", name, got, want)
		}
	}
	services := map[string]*corev1.Service{}
	for _, o := range all {
		switch is := o.(type) {
		case *appsv1.DaemonSet:
			check(nameOf(t, o), is.Spec.Selector.MatchLabels, "DaemonSet/hotplate-agent")
		case *appsv1.Deployment:
			check(nameOf(t, o), is.Spec.Selector.MatchLabels, "Deployment/hotplate-coordinator")
		case *policyv1.PodDisruptionBudget:
			check(nameOf(t, o), is.Spec.Selector.MatchLabels, "Deployment/hotplate-coordinator")
		case *networkingv1.NetworkPolicy:
			check(nameOf(t, o), is.Spec.PodSelector.MatchLabels, "Deployment/hotplate-coordinator")
		case *corev1.Service:
			services[is.Name] = is
			which := map[string]string{"hotplate-agent": "DaemonSet/hotplate-agent", "hotplate-coordinator": "Deployment/hotplate-coordinator"}
			check(nameOf(t, o), is.Spec.Selector, which[is.Name])
			n := slices.IndexFunc(pods, func(p pod) bool { return p.name == which[is.Name] })
			for _, port := range is.Spec.Ports {
				if !slices.ContainsFunc(pods[n].container().Ports, func(p corev1.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }) {
					t.Errorf("%s: no container has the port %s", nameOf(t, o), port.TargetPort.StrVal)
				}
			}
		}
	}
	for _, o := range all {
		monitor, ok := o.(*serviceMonitor)
		if !ok {
			continue
		}
		is := services[monitor.Name]
		if is == nil || !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(is.Labels)) ||
			is.Spec.Ports[0].Name != monitor.Spec.Endpoints[0].Port {
			t.Errorf("ServiceMonitor/%s does not find its Service", monitor.Name)
		}
	}
}

// rbacIsExact holds what agents and coordinators may do. Whoever adds to it says so here.
func rbacIsExact(t *testing.T, all objects) {
	read := []string{"get", "list", "watch"}
	write := []string{"get", "list", "watch", "create", "update", "patch"}
	rule := func(group string, verbs []string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
	}
	want := map[string][]rbacv1.PolicyRule{
		"Role/hotplate-agent": {rule("", read, "configmaps", "secrets")},
		"Role/hotplate-coordinator": {
			rule("", append(slices.Clone(write), "delete"), "configmaps"), rule("", read, "secrets"), rule("coordination.k8s.io", write, "leases"),
		},
		"ClusterRole/hotplate-coordinator": {
			rule("", append(slices.Clone(read), "patch"), "nodes"), rule("", []string{"patch"}, "nodes/status"), rule("", read, "pods"),
			rule("events.k8s.io", []string{"create", "patch"}, "events"),
			rule("authentication.k8s.io", []string{"create"}, "tokenreviews"),
		},
	}
	wantBindings := map[string]string{ // who has what
		"RoleBinding/hotplate-agent":              "Role/hotplate-agent: hotplate-agent",
		"RoleBinding/hotplate-coordinator":        "Role/hotplate-coordinator: hotplate-coordinator",
		"ClusterRoleBinding/hotplate-coordinator": "ClusterRole/hotplate-coordinator: hotplate-coordinator",
	}
	got, bindings := map[string][]rbacv1.PolicyRule{}, map[string]string{}
	bind := func(name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		for _, s := range subjects {
			if s.Kind != "ServiceAccount" || s.Namespace != namespace {
				t.Errorf("%s: %+v", name, s)
			}
			bindings[name] += ref.Kind + "/" + ref.Name + ": " + s.Name
		}
	}
	for _, o := range all {
		switch is := o.(type) {
		case *rbacv1.Role:
			got[nameOf(t, o)] = is.Rules
		case *rbacv1.ClusterRole:
			got[nameOf(t, o)] = is.Rules
		case *rbacv1.RoleBinding:
			bind(nameOf(t, o), is.RoleRef, is.Subjects)
		case *rbacv1.ClusterRoleBinding:
			bind(nameOf(t, o), is.RoleRef, is.Subjects)
		case *corev1.ServiceAccount:
			if is.AutomountServiceAccountToken == nil || *is.AutomountServiceAccountToken {
				t.Errorf("%s gives its token to every pod that uses it", nameOf(t, o))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wantBindings, bindings); diff != "" {
		t.Error(diff)
	}
}

// TestUpgradesOfOtherThingsReplaceNoAgent changes everything that is not the agent's, and the chart's own version.
func TestUpgradesOfOtherThingsReplaceNoAgent(t *testing.T) {
	h := atHelm(t)
	before := h.objects(t, "agent: {metrics: true}").agent(t)
	newer := filepath.Join(t.TempDir(), "chart")
	if err := os.CopyFS(newer, os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(newer, "Chart.yaml")
	text := bytes.Replace(read(t, file), []byte("\nversion: "), []byte("\nversion: 9"), 1)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	values := everything + "uninstall: {release: false}\n"
	for _, cut := range []string{"image:", "imagePullSecrets:", "extraTaints:"} { // are the agent's too
		values = strings.Replace(values, "\n"+cut, "\n#"+cut, 1)
	}
	from, to := strings.Index(values, "\nagent:\n"), strings.Index(values, "\ncoordinator:\n")
	values = values[:from] + "\nagent: {metrics: true}" + values[to:]
	out, err := h.templateOf(t, newer, values)
	if err != nil {
		t.Fatal(err)
	}
	after := decode(t, out)
	if diff := cmp.Diff(before.Spec, after.agent(t).Spec); diff != "" {
		t.Errorf("the DaemonSet is another one:\n%s", diff)
	}
	if cmp.Diff(h.objects(t, "").coordinator(t).Spec, after.coordinator(t).Spec) == "" {
		t.Error("the values changed nothing at all")
	}
	strategy := before.Spec.UpdateStrategy
	if strategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || strategy.RollingUpdate.MaxUnavailable.String() != "10%" {
		t.Errorf("agents are replaced by %+v", strategy)
	}
}

// TestEverybodyGetsOntoNewNodes: the startup taint and extraTaints are tolerated by all pods.
func TestEverybodyGetsOntoNewNodes(t *testing.T) {
	taints := []corev1.Taint{
		{Key: "hotplate.dev/not-ready", Effect: corev1.TaintEffectNoSchedule},
		{Key: "sku", Value: "gpu", Effect: corev1.TaintEffectNoSchedule},
		{Key: "example.com/agent-not-ready", Value: "any", Effect: corev1.TaintEffectNoExecute},
	}
	tolerates := func(all []corev1.Toleration, taint corev1.Taint) bool {
		return slices.ContainsFunc(all, func(is corev1.Toleration) bool {
			return is.Key == taint.Key && (is.Effect == "" || is.Effect == taint.Effect) &&
				(is.Operator == corev1.TolerationOpExists || is.Value == taint.Value)
		})
	}
	h := atHelm(t)
	for _, p := range h.objects(t, everything).pods(t) {
		for _, taint := range taints {
			if !tolerates(p.spec.Tolerations, taint) {
				t.Errorf("%s does not tolerate %s", p.name, taint.ToString())
			}
		}
		for _, other := range []string{"node-role.kubernetes.io/control-plane", "anything"} {
			if tolerates(p.spec.Tolerations, corev1.Taint{Key: other, Effect: corev1.TaintEffectNoSchedule}) {
				t.Errorf("%s tolerates %s", p.name, other)
			}
		}
		if p.spec.NodeSelector["kubernetes.io/os"] != "linux" {
			t.Errorf("%s may run on %v", p.name, p.spec.NodeSelector)
		}
	}
	gpu := h.objects(t, "").agent(t).Spec.Template.Spec.Tolerations
	if !tolerates(gpu, corev1.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: corev1.TaintEffectNoSchedule}) {
		t.Error("agents do not tolerate what GPU nodes mostly have")
	}
}

// pathsAreMounted: every path in an argument is in a mount at the same path.
func pathsAreMounted(t *testing.T, all objects) {
	presets := readPresets(t)
	spec := all.agent(t).Spec.Template.Spec
	c := spec.Containers[0]
	sources := map[string]string{}
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			sources[v.Name] = v.HostPath.Path
		}
	}
	mounts := map[string]corev1.VolumeMount{}
	for _, m := range c.VolumeMounts {
		if source, ok := sources[m.Name]; ok {
			if source != m.MountPath {
				t.Errorf("%s of the node is at %s", source, m.MountPath)
			}
			mounts[m.MountPath] = m
		}
	}
	seen := func(p string) (corev1.VolumeMount, bool) {
		for ; p != "/"; p = path.Dir(p) {
			if m, ok := mounts[p]; ok {
				return m, true
			}
		}
		return corev1.VolumeMount{}, false
	}
	for name, writes := range map[string]bool{"address": false, "hosts-dir": true, "state-dir": true, "run-dir": true} {
		m, ok := seen(flagOf(c, name))
		if !ok || m.ReadOnly == writes {
			t.Errorf("--%s=%s is in the mount %+v of %v", name, flagOf(c, name), m, slices.Sorted(maps.Keys(mounts)))
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(presets)), func(p map[string]string) bool {
		return p["containerdSocket"] == flagOf(c, "address") && p["hostsDir"] == flagOf(c, "hosts-dir")
	}) {
		t.Errorf("no preset has %v", c.Args)
	}
	publishOnly := !*c.SecurityContext.Privileged && len(c.SecurityContext.Capabilities.Add) == 0
	for _, p := range presets {
		if _, ok := mounts[p["containerdRoot"]]; p["hostsDir"] == flagOf(c, "hosts-dir") && ok == publishOnly {
			t.Errorf("containerd's root is mounted: %v", ok)
		}
	}
}

// TestPodsOfTheHooks: they end, and leave something to read.
func TestPodsOfTheHooks(t *testing.T) {
	h := atHelm(t)
	all := h.objects(t, "uninstall: {timeoutSeconds: 100}")
	job := find[*batchv1.Job](t, all, "hotplate-release")
	if *job.Spec.ActiveDeadlineSeconds != 130 || flagOf(job.Spec.Template.Spec.Containers[0], "timeout") != "100s" {
		t.Errorf("the Job ends after %d seconds, what it waits for after %v", *job.Spec.ActiveDeadlineSeconds, job.Spec.Template.Spec.Containers[0].Args)
	}
	for _, o := range []metav1.Object{job, find[*corev1.Pod](t, all, "hotplate-check")} {
		if o.GetAnnotations()["helm.sh/hook-output-log-policy"] != "hook-succeeded,hook-failed" {
			t.Errorf("helm does not print what %s says", o.GetName())
		}
	}
	for _, o := range h.objects(t, "uninstall: {release: false}") {
		if job, ok := o.(*batchv1.Job); ok {
			t.Errorf("there is a Job %s", job.Name)
		}
	}
}
