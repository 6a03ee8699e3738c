package main

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const goodConfig = `apiVersion: hotplate.dev/v1alpha1
images:
- {name: llama, ref: "` + llama + `"}
- {name: late, ref: "registry.example.com/models/late:v1", nodeSelector: {pool: late}}
`

func TestExplain(t *testing.T) {
	const late = "registry.example.com/models/late:v1"
	for _, c := range []struct {
		what, image, node string
		change            func(d *desk)
		says              []string
	}{
		{"by its name", "llama", "gpu-1", nil, []string{llama + " on gpu-1: Ready, pods start without a pull\n", "wanted by    the config, as image llama", "digest       " + digest}},
		{"by its reference", llama, "gpu-1", nil, []string{llama + " on gpu-1: Ready"}},
		{"on its way", whisper, "gpu-2", nil, []string{"not Ready: Fetching\n", "the request configmap/preheat-w", "the node's annotation", "Fetching; [###############-----]  75% 3.0 GiB of 4.0 GiB"}},
		{"for other nodes by request", whisper, "gpu-1", nil, []string{"nobody wants it there\n", "configmap/preheat-w is for nodes with pool=gpu only", "do: to have it there: kubectl hotplate preheat " + whisper + " --node gpu-1"}},
		{"for other nodes by config", "late", "gpu-1", nil, []string{"nobody wants it there", "image late is for nodes with pool=late only", "preheat IMAGE --node gpu-1"}},
		{"there without being wanted", late, "gpu-2", nil, []string{"nobody wants it there", "all the same, as the kubelet says (1.0 GiB)"}},
		{"a wrong annotation", late, "gpu-2", nil, []string{`annotation   "nonsense" is no image`}},
		{"failed", whisper, "gpu-2", func(d *desk) {
			d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), func(r *report.NodeReport) {
				r.Images[1].Phase, r.Images[1].Reason, r.Images[1].Message, r.Images[1].Retry = report.ImageFailed, report.NoSpace, "it needs 9 GB", noon.Add(time.Minute)
			})
		}, []string{"not Ready: it failed: NoSpace\n", "it needs 9 GB; tried again in 1m0s", "do: docs/operations.md, Images, has what to do about NoSpace"}},
		{"the registry is in the way", whisper, "gpu-2", func(d *desk) {
			d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), func(r *report.NodeReport) {
				set(r, report.RegistriesConfigured, report.False, "NotAllApplied", "registry.example.com is in conflict")
				r.Registries = []report.Registry{{Host: "registry.example.com", State: report.RegistryConflict, Message: "somebody else's",
					Mirrors: []report.Mirror{{URL: "https://mirror.example.com", Message: "refused"}}},
					{Host: "other.example.com", State: report.RegistryFailed, Message: "not its own"}}
				r.Throttled = []report.Throttle{{Host: "mirror.example.com", For: 9 * time.Second}}
			})
		}, []string{"RegistriesConfigured is False, NotAllApplied", "registry.example.com is Conflict: somebody else's", "https://mirror.example.com does not answer: refused", "mirror.example.com, for 9s"}},
		{"not resolved", whisper, "gpu-2", func(d *desk) {
			is := gpu2()
			unresolved(&is)
			d.tells["v1/nodes/gpu-2"] = withReport(is, nil)
		}, []string{"not Ready: not resolved: whisper: 404\n", "do: see that the registry has it"}},
		{"another digest is there", whisper, "gpu-2", func(d *desk) {
			d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), func(r *report.NodeReport) { r.Images[1].Digest, r.Images[1].Target = "sha256:old", "sha256:old" })
		}, []string{"not Ready: the agent has not begun yet"}},
		{"the agent is silent", whisper, "gpu-2", func(d *desk) {
			is := gpu2()
			silent(&is)
			d.tells["v1/nodes/gpu-2"] = withReport(is, nil)
		}, []string{"not known: no report of the agent", "kubectl hotplate doctor"}},
		{"no agent", llama, "cpu-1", nil, []string{llama + " on cpu-1: not known\n", "the coordinator has heard nothing of this node", "do: see whether an agent runs there"}},
		{"not pinned", "llama", "gpu-1", func(d *desk) {
			d.tells["v1/nodes/gpu-1"] = withReport(gpu1(), func(r *report.NodeReport) { r.Images[0].Pinned = false })
		}, []string{"Ready, pods start", "the kubelet may remove it"}},
		{"no rights for ConfigMaps", "llama", "gpu-1", func(d *desk) {
			d.forbid("get", "configmaps")
			d.forbid("list", "configmaps")
		}, []string{"Ready, pods start", "wanted by    the config in force", "not seen     the config: ", "not seen     requests: "}},
	} {
		t.Run(c.what, func(t *testing.T) {
			gpu := node("gpu-2", map[string]string{"pool": "gpu"})
			gpu.Annotations = map[string]string{coordinator.PreheatAnnotation: "nonsense, " + whisper}
			gpu.Status.Images = []corev1.ContainerImage{{Names: []string{"registry.example.com/models/late@" + digest, late}, SizeBytes: 1 << 30}}
			d := newDesk(t, lease("leader"), node("cpu-1", nil), node("gpu-1", nil), gpu, configMap(configName, nil, nil, map[string]string{"config.yaml": goodConfig}),
				preheatRequest("preheat-w", `{"ref":"`+whisper+`","nodeSelector":{"pool":"gpu"}}`))
			d.tells["v1/nodes/gpu-1"], d.tells["v1/nodes/gpu-2"] = withReport(gpu1(), nil), withReport(gpu2(), nil)
			if c.change != nil {
				c.change(d)
			}
			out, _, err := d.run("explain", c.image, "--node", c.node)
			if err != nil {
				t.Fatal(err)
			}
			for _, says := range c.says {
				if !strings.Contains(out, says) {
					t.Errorf("it does not say %q:\n%s", says, out)
				}
			}
			if strings.Contains(out, "not its own") {
				t.Errorf("it speaks of another registry:\n%s", out)
			}
		})
	}
}
