//go:build e2e

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

const namespace = "gpu-nodes"

// helm is a helm with a home of its own.
type helm struct{ program, home string }

// atHelm runs the rest of the test at the root of the repository, with helm.
func atHelm(t *testing.T) helm {
	t.Helper()
	atRoot(t)
	program, err := ensureHelm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return helm{program, t.TempDir()}
}

func (h helm) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := runHelm(t.Context(), h.program, h.home, args...)
	return string(out), err
}

// template renders the chart with values, hooks and tests included.
func (h helm) template(t *testing.T, values string) (string, error) {
	t.Helper()
	return h.templateOf(t, chartDir, values)
}

func (h helm) templateOf(t *testing.T, chart, values string) (string, error) {
	t.Helper()
	return h.run(t, "template", "any-name", chart, "--namespace", namespace, "--values", h.write(t, values))
}

// write makes a file of values.
func (h helm) write(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// objects renders the chart and decodes what comes of it.
func (h helm) objects(t *testing.T, values string) objects {
	t.Helper()
	out, err := h.template(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, out)
}

// objects are what a chart makes.
type objects []runtime.Object

// decode decodes strictly: an unknown field and one that is there twice are errors.
func decode(t *testing.T, text string) (all objects) {
	t.Helper()
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	addMonitoring(s)
	decoder := serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if isEmpty(doc) {
			continue
		}
		obj, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		all = append(all, obj)
	}
}

// isEmpty tells whether a document has comments alone.
func isEmpty(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !bytes.HasPrefix(line, []byte("#")) && string(line) != "---" {
			return false
		}
	}
	return true
}

// The types of the Prometheus operator, as far as the chart uses them; no more, so that a misspelled field is an error.
type (
	serviceMonitor struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Selector          metav1.LabelSelector `json:"selector"`
			NamespaceSelector struct {
				MatchNames []string `json:"matchNames"`
			} `json:"namespaceSelector"`
			Endpoints []struct {
				Port        string `json:"port"`
				Interval    string `json:"interval"`
				Relabelings []struct {
					SourceLabels []string `json:"sourceLabels"`
					TargetLabel  string   `json:"targetLabel"`
				} `json:"relabelings"`
			} `json:"endpoints"`
		} `json:"spec"`
	}
	prometheusRule struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Groups []struct {
				Name  string `json:"name"`
				Rules []struct {
					Alert       string            `json:"alert"`
					Expr        string            `json:"expr"`
					For         string            `json:"for"`
					Labels      map[string]string `json:"labels"`
					Annotations map[string]string `json:"annotations"`
				} `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
)

func (m *serviceMonitor) DeepCopyObject() runtime.Object { c := *m; return &c }
func (m *prometheusRule) DeepCopyObject() runtime.Object { c := *m; return &c }

func addMonitoring(s *runtime.Scheme) {
	v := schema.GroupVersion{Group: "monitoring.coreos.com", Version: "v1"}
	s.AddKnownTypeWithName(v.WithKind("ServiceMonitor"), &serviceMonitor{})
	s.AddKnownTypeWithName(v.WithKind("PrometheusRule"), &prometheusRule{})
}

// meta is the metadata of an object.
func meta(t *testing.T, o runtime.Object) metav1.Object {
	t.Helper()
	m, ok := o.(metav1.Object)
	if !ok {
		t.Fatalf("%T has no metadata", o)
	}
	return m
}

// nameOf names an object as kubectl does.
func nameOf(t *testing.T, o runtime.Object) string {
	t.Helper()
	return o.GetObjectKind().GroupVersionKind().Kind + "/" + meta(t, o).GetName()
}

func (all objects) names(t *testing.T) (names []string) {
	t.Helper()
	for _, o := range all {
		names = append(names, nameOf(t, o))
	}
	slices.Sort(names)
	return names
}

// find returns the object of that type and name.
func find[T runtime.Object](t *testing.T, all objects, name string) (found T) {
	t.Helper()
	n := 0
	for _, o := range all {
		if o, ok := o.(T); ok && meta(t, o).GetName() == name {
			found = o
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d objects %T %s among %v", n, found, name, all.names(t))
	}
	return found
}

func (all objects) agent(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	return find[*appsv1.DaemonSet](t, all, "hotplate-agent")
}

func (all objects) coordinator(t *testing.T) *appsv1.Deployment {
	t.Helper()
	return find[*appsv1.Deployment](t, all, "hotplate-coordinator")
}

// pod is one pod that the chart leads to.
type pod struct {
	name   string
	labels map[string]string
	spec   corev1.PodSpec
}

func (p pod) container() corev1.Container { return p.spec.Containers[0] }

// pods are all of them.
func (all objects) pods(t *testing.T) (pods []pod) {
	t.Helper()
	for _, o := range all {
		switch is := o.(type) {
		case *appsv1.DaemonSet:
			pods = append(pods, pod{nameOf(t, o), is.Spec.Template.Labels, is.Spec.Template.Spec})
		case *appsv1.Deployment:
			pods = append(pods, pod{nameOf(t, o), is.Spec.Template.Labels, is.Spec.Template.Spec})
		case *batchv1.Job:
			pods = append(pods, pod{nameOf(t, o), is.Spec.Template.Labels, is.Spec.Template.Spec})
		case *corev1.Pod:
			pods = append(pods, pod{nameOf(t, o), is.Labels, is.Spec})
		}
	}
	if len(pods) < 3 {
		t.Fatalf("only %d pods were seen", len(pods))
	}
	for _, p := range pods {
		if len(p.spec.Containers) != 1 || len(p.spec.InitContainers) != 0 {
			t.Fatalf("%s has other than one container", p.name)
		}
	}
	return pods
}

// flagOf returns the value of a flag of a container; empty if it is not given.
func flagOf(c corev1.Container, name string) string {
	for _, arg := range c.Args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// asJSON writes a value on one line.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// indent shifts text to the right, for YAML within YAML.
func indent(text string, by int) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&out, "%*s%s", by, "", line)
	}
	return out.String()
}
