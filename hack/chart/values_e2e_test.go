//go:build e2e

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryValueDoesSomething renders the chart with another value than the default, for every value that there is.
func TestEveryValueDoesSomething(t *testing.T) {
	h := atHelm(t)
	// How to set each value, as JSON; what is set beside it; and what must come of it.
	tests := map[string]struct{ json, beside, says string }{
		"image.repository":             {`"harbor.example.com/mirror/hotplate"`, "", `"harbor.example.com/mirror/hotplate:`},
		"image.tag":                    {`"v9"`, "", "/hotplate:v9"},
		"image.digest":                 {`"sha256:` + strings.Repeat("a", 64) + `"`, "image: {tag: v9}", "/hotplate@sha256:aaa"},
		"image.pullPolicy":             {`"Always"`, "", "imagePullPolicy: Always"},
		"imagePullSecrets":             {`[{"name":"pull"}]`, "", "- name: pull"},
		"config":                       {`{"apiVersion":"hotplate.dev/v1alpha1"}`, "", "name: hotplate-config"},
		"preset":                       {`"k3s"`, "", "/run/k3s/containerd"},
		"paths.containerdSocket":       {`"/run/own/c.sock"`, "", "path: /run/own,"},
		"paths.containerdRoot":         {`"/data/containerd"`, "", "mountPath: /data/containerd"},
		"paths.hostsDir":               {`"/etc/containerd/hosts"`, "", "--hosts-dir=/etc/containerd/hosts"},
		"paths.configDir":              {`"/etc"`, "", "mountPath: /etc\n"},
		"paths.stateDir":               {`"/data/hotplate"`, "", "--state-dir=/data/hotplate"},
		"paths.runDir":                 {`"/run/own"`, "", "--run-dir=/run/own"},
		"extraTaints":                  {`[{"key":"sku","value":"gpu"}]`, "", `value: "gpu"`},
		"priorityClass.create":         {`false`, "", ""},
		"priorityClass.name":           {`"mine"`, "", "priorityClassName: mine"},
		"priorityClass.value":          {`7000000`, "", "value: 7000000\n"},
		"agent.nodeSelector":           {`{"pool":"gpu"}`, "", "pool: gpu"},
		"agent.affinity":               {`{"nodeAffinity":{}}`, "", "nodeAffinity: {}"},
		"agent.tolerations":            {`[{"key":"sku"}]`, "", "key: sku"},
		"agent.privileged":             {`true`, "", "privileged: true"},
		"agent.publishOnly":            {`true`, "", "name: containerd-hosts"},
		"agent.mayRestart":             {`false`, "", ""},
		"agent.hostPID":                {`true`, "", "hostPID: true"},
		"agent.extraHostPaths":         {`[{"path":"/etc/hotplate"}]`, "", "path: /etc/hotplate,"},
		"agent.snapshotter":            {`"native"`, "", "--snapshotter=native"},
		"agent.logLevel":               {`"debug"`, "", "--log-level=debug"},
		"agent.env":                    {`{"NO_PROXY":"10.0.0.0/8"}`, "", "name: NO_PROXY\n"},
		"agent.port":                   {`9999`, "", "--listen=127.0.0.1:9999"},
		"agent.metrics":                {`true`, "", "clusterIP: None"},
		"agent.resources":              {`{"limits":{"memory":"3Gi"}}`, "", "memory: 3Gi"},
		"agent.maxUnavailable":         {`3`, "", "maxUnavailable: 3\n"},
		"agent.appArmorProfile":        {`{"type":"Unconfined"}`, "", "type: Unconfined"},
		"agent.seLinuxOptions":         {`{"type":"spc_t"}`, "", "type: spc_t"},
		"agent.podLabels":              {`{"team":"a"}`, "", "team: a"},
		"agent.podAnnotations":         {`{"note":"a"}`, "", "note: a"},
		"coordinator.replicas":         {`5`, "", "replicas: 5"},
		"coordinator.nodeSelector":     {`{"pool":"system"}`, "", "pool: system"},
		"coordinator.affinity":         {`{"nodeAffinity":{}}`, "", "nodeAffinity: {}"},
		"coordinator.tolerations":      {`[{"key":"sku"}]`, "", "key: sku"},
		"coordinator.tlsSecret":        {`"own"`, "", "--tls-secret=own"},
		"coordinator.logLevel":         {`"warn"`, "", "--log-level=warn"},
		"coordinator.env":              {`{"NO_PROXY":"10.0.0.0/8"}`, "", "name: NO_PROXY\n"},
		"coordinator.resources":        {`{"limits":{"memory":"3Gi"}}`, "", "memory: 3Gi"},
		"coordinator.disruptionBudget": {`false`, "", ""},
		"coordinator.appArmorProfile":  {`{"type":"Unconfined"}`, "", "type: Unconfined"},
		"coordinator.seLinuxOptions":   {`{"level":"s0:c1"}`, "", "level: s0:c1"},
		"coordinator.podLabels":        {`{"team":"a"}`, "", "team: a"},
		"coordinator.podAnnotations":   {`{"note":"a"}`, "", "note: a"},
		"networkPolicy.enabled":        {`true`, "", "kind: NetworkPolicy"},
		"networkPolicy.nodeCIDRs":      {`["10.0.0.0/16"]`, "networkPolicy: {enabled: true}", `cidr: "10.0.0.0/16"`},
		"networkPolicy.statusFrom":     {`[{"podSelector":{}}]`, "networkPolicy: {enabled: true}", "podSelector: {}"},
		"networkPolicy.egress":         {`[{"ports":[{"port":443}]}]`, "networkPolicy: {enabled: true}", "port: 443"},
		"monitoring.serviceMonitor":    {`true`, "", "kind: ServiceMonitor"},
		"monitoring.prometheusRule":    {`true`, "", "kind: PrometheusRule"},
		"monitoring.labels":            {`{"release":"a"}`, "monitoring: {serviceMonitor: true}", "release: a"},
		"monitoring.interval":          {`"7s"`, "monitoring: {serviceMonitor: true}", "interval: 7s"},
		"uninstall.release":            {`false`, "", ""},
		"uninstall.timeoutSeconds":     {`77`, "", "--timeout=77s"},
	}
	values, err := parseValues(read(t, filepath.Join(chartDir, "values.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	without := map[string]string{} // what is rendered beside
	for _, name := range leaves(values) {
		test, ok := tests[name]
		if !ok {
			t.Errorf("say here what %s does", name)
			continue
		}
		delete(tests, name)
		if _, ok := without[test.beside]; !ok {
			if without[test.beside], err = h.template(t, test.beside); err != nil {
				t.Fatal(err)
			}
		}
		file := h.write(t, test.beside)
		got, err := h.run(t, "template", "any-name", chartDir, "--namespace", namespace, "--values", file, "--set-json", name+"="+test.json)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		decode(t, got)
		before := strings.Count(without[test.beside], test.says)
		if got == without[test.beside] || test.says != "" && strings.Count(got, test.says) <= before {
			t.Errorf("%s does nothing, or makes no %q", name, test.says)
		}
	}
	for name := range tests {
		t.Errorf("there is no value %s", name)
	}
}

func leaves(values []*value) (names []string) {
	for _, v := range values {
		if v.children == nil {
			names = append(names, v.path)
		}
		names = append(names, leaves(v.children)...)
	}
	return names
}
