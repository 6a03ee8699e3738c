//go:build e2e

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// TestOnAnAPIServer installs the chart on a control plane without nodes, for what only the API server and helm together can say.
func TestOnAnAPIServer(t *testing.T) {
	atRoot(t)
	chart, plain := absolute(t, chartDir), absolute(t, plainFile)
	c := rigtest.Cluster(t, rig.ClusterConfig{})
	cluster := clusterOf{t, c}

	// What is there must be enough for everything, but for the types of the Prometheus operator.
	full := cluster.write(strings.Replace(everything, "{serviceMonitor: true, prometheusRule: true,", "{", 1))
	cluster.helm("install", "hotplate", chart, "--namespace", namespace, "--create-namespace")
	first := cluster.kubectl("get", "daemonset", "hotplate-agent", "-o", "jsonpath={.metadata.generation}")

	t.Run("a second one is refused", func(t *testing.T) {
		_, err := c.Helm(t.Context(), "install", "other", chart, "--namespace", "elsewhere", "--create-namespace")
		if err == nil || !strings.Contains(err.Error(), "exists and cannot be imported") {
			t.Errorf("%v", err)
		}
	})
	t.Run("what agents and coordinators may do", func(t *testing.T) { clusterOf{t, c}.permissions() })
	t.Run("the user's ConfigMap survives upgrades", func(t *testing.T) {
		cluster := clusterOf{t, c}
		cluster.kubectl("create", "configmap", "hotplate-config", "--from-literal=config.yaml=mine")
		cluster.helm("upgrade", "hotplate", chart, "--namespace", namespace, "--set", "coordinator.logLevel=debug", "--set", "uninstall.timeoutSeconds=60")
		if got := cluster.kubectl("get", "configmap", "hotplate-config", "-o", "jsonpath={.data.config\\.yaml}"); got != "mine" {
			t.Errorf("it became %q", got)
		}
		if now := cluster.kubectl("get", "daemonset", "hotplate-agent", "-o", "jsonpath={.metadata.generation}"); now != first {
			t.Errorf("the DaemonSet is another one: generation %s, was %s", now, first)
		}
		_, err := c.Helm(t.Context(), "upgrade", "hotplate", chart, "--namespace", namespace, "--set", "config.apiVersion=hotplate.dev/v1alpha1")
		if err == nil || !strings.Contains(err.Error(), "exists and cannot be imported") {
			t.Errorf("the chart takes it over: %v", err)
		}
		cluster.kubectl("delete", "configmap", "hotplate-config")
	})
	t.Run("everything set", func(t *testing.T) {
		cluster := clusterOf{t, c}
		cluster.helm("upgrade", "hotplate", chart, "--namespace", namespace, "--values", full)
		cluster.helm("upgrade", "hotplate", chart, "--namespace", namespace, "--set", "agent.privileged=true", "--reset-values")
		cluster.helm("rollback", "hotplate", "1", "--namespace", namespace)
	})
	t.Run("nothing is left", func(t *testing.T) {
		cluster := clusterOf{t, c}
		cluster.helm("uninstall", "hotplate", "--namespace", namespace, "--no-hooks")
		left := cluster.kubectl("get", "all,configmap,secret,role,rolebinding,networkpolicy,poddisruptionbudget,serviceaccount", "-o", "name") +
			cluster.kubectl("get", "clusterrole,clusterrolebinding,priorityclass", "-o", "name")
		for name := range strings.FieldsSeq(left) {
			if strings.Contains(name, "hotplate") && !strings.HasPrefix(name, "pod/") { // nobody ends pods where there is no node
				t.Errorf("left: %s", name)
			}
		}
	})
	t.Run("the plain manifests", func(t *testing.T) {
		out, err := c.Kubectl(t.Context(), "apply", "--server-side", "-f", plain)
		if err != nil || strings.Contains(out, "Warning") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type clusterOf struct {
	*testing.T
	c *rig.Cluster
}

func (c clusterOf) write(values string) string { return helm{}.write(c.T, values) }

func (c clusterOf) helm(args ...string) string {
	c.Helper()
	out, err := c.c.Helm(c.Context(), args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

func (c clusterOf) kubectl(args ...string) string {
	c.Helper()
	out, err := c.c.Kubectl(c.Context(), append([]string{"--namespace", namespace}, args...)...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// permissions asks the API server what the service accounts may do.
func (c clusterOf) permissions() {
	c.Helper()
	for _, ask := range []struct {
		who, what, where string
		may              bool
	}{
		{"agent", "watch secrets", namespace, true},
		{"agent", "list configmaps", namespace, true},
		{"agent", "get secrets", "kube-system", false},
		{"agent", "get configmaps", "default", false},
		{"agent", "list secrets", "", false},
		{"agent", "update configmaps", namespace, false},
		{"agent", "create secrets", namespace, false},
		{"agent", "get pods", namespace, false},
		{"agent", "get nodes", "", false},
		{"agent", "patch nodes", "", false},
		{"agent", "create tokenreviews.authentication.k8s.io", "", false},
		{"agent", "create serviceaccounts/token", namespace, false},
		{"coordinator", "patch nodes", "", true},
		{"coordinator", "patch nodes/status", "", true},
		{"coordinator", "list pods", "", true},
		{"coordinator", "create tokenreviews.authentication.k8s.io", "", true},
		{"coordinator", "delete configmaps", namespace, true},
		{"coordinator", "create leases.coordination.k8s.io", namespace, true},
		{"coordinator", "get secrets", namespace, true},
		{"coordinator", "create secrets", namespace, false},
		{"coordinator", "update secrets", namespace, false},
		{"coordinator", "delete secrets", namespace, false},
		{"coordinator", "get secrets", "kube-system", false},
		{"coordinator", "delete nodes", "", false},
		{"coordinator", "delete pods", "", false},
		{"coordinator", "create pods", namespace, false},
		{"coordinator", "create serviceaccounts/token", namespace, false},
		{"coordinator", "update daemonsets.apps", namespace, false},
	} {
		verb, resource, _ := strings.Cut(ask.what, " ")
		args := []string{"auth", "can-i", verb, resource, "--as", "system:serviceaccount:" + namespace + ":hotplate-" + ask.who}
		if ask.where == "" {
			args = append(args, "--all-namespaces")
		} else {
			args = append(args, "--namespace", ask.where)
		}
		out, err := c.c.Kubectl(c.Context(), args...) // its exit code says no, too
		if may := strings.TrimSpace(out) == "yes"; may != ask.may || may != (err == nil) {
			c.Errorf("hotplate-%s may %s in %q: %v, want %v (%v)", ask.who, ask.what, ask.where, may, ask.may, err)
		}
	}
}
