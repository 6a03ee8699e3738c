package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

func pod(name, component, onNode string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "hotplate", Labels: map[string]string{componentLabel: component}},
		Spec: corev1.PodSpec{NodeName: onNode}, Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
}

// clinic is a cluster that is well, before a doctor looks.
type clinic struct {
	node1, node2 *corev1.Node
	agent1       *corev1.Pod
	leader       *corev1.Pod
	lease        string
	config       *corev1.ConfigMap
	announced    *corev1.ConfigMap
	rollout      *corev1.ConfigMap
	request      *corev1.ConfigMap
	status       coordinator.NodeStatus // of node1
	report       func(r *report.NodeReport)
	unheard      bool
	deaf         error // why the leader cannot be asked
	then         func(d *desk)
}

func (c *clinic) desk(t *testing.T) *desk {
	d := newDesk(t, c.node1, c.node2, c.agent1, c.leader, lease(c.lease), c.config, c.announced, c.rollout, c.request)
	c.status.Node = c.node1.Name
	heard := []coordinator.NodeStatus{c.status}
	if c.unheard {
		heard = heard[:0]
	}
	d.tells["v1/nodes"] = heard
	if c.deaf != nil {
		d.tells["v1/nodes"] = c.deaf
	}
	d.tells["v1/nodes/gpu-1"] = withReport(c.status, c.report)
	if c.then != nil {
		c.then(d)
	}
	return d
}

func wellClinic() *clinic {
	well := func(name string) *corev1.Node {
		n := node(name, nil)
		n.Status.NodeInfo.ContainerRuntimeVersion = "containerd://2.4.2"
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse}}
		return n
	}
	return &clinic{node1: well("gpu-1"), node2: well("cpu-1"), agent1: pod("agent-1", agentComponent, "gpu-1"), leader: pod("leader", coordComponent, "cpu-1"), lease: "leader",
		config:    configMap(configName, nil, nil, map[string]string{config.DocumentKey: goodConfig}),
		announced: configMap(report.CoordinatorName, nil, nil, map[string]string{report.URLKey: "https://192.0.2.1:8443"}),
		rollout:   configMap(coordinator.RolloutName, nil, nil, nil),
		request:   preheatRequest("preheat-x", `{"ref":"`+whisper+`","nodes":["gpu-1"]}`),
		status:    gpu1()}
}

func TestDoctorFindsNothing(t *testing.T) {
	for what, change := range map[string]func(c *clinic){
		"all is well":                     func(*clinic) {},
		"a node without need of an agent": func(c *clinic) { c.node2.Labels = map[string]string{"pool": "cpu"} },
		"images on their way":             func(c *clinic) { preparing(&c.status); c.status.Images[0].State = coordinator.ImagePending },
		"a runtime where no agent runs":   func(c *clinic) { c.node2.Status.NodeInfo.ContainerRuntimeVersion = "cri-o://1.30" },
		"containerd is restarting": func(c *clinic) {
			c.report = live(report.Unknown, report.Restarting)
			c.status.Ready, c.status.Reason = report.False, report.Restarting
		},
		"a pod that was replaced": func(c *clinic) { c.leader.Status.Phase = corev1.PodSucceeded },
		"a disk with room": func(c *clinic) {
			c.report = func(r *report.NodeReport) { r.Disk = &report.Disk{Path: "/var/lib/containerd", Size: 1000, Free: 200} }
		},
		"a containerd that is just new enough": func(c *clinic) { c.node1.Status.NodeInfo.ContainerRuntimeVersion = "containerd://1.7.3" },
	} {
		t.Run(what, func(t *testing.T) {
			c := wellClinic()
			change(c)
			out, errOut, err := c.desk(t).run("doctor")
			if err != nil || out != "" || errOut != "nothing is wrong: leader leads and hears 1 node\n" {
				t.Errorf("%v %s\n%s", err, errOut, out)
			}
		})
	}
}

func live(status report.ConditionStatus, reason string) func(r *report.NodeReport) {
	return func(r *report.NodeReport) { set(r, report.HostsLive, status, reason, "it says why") }
}

// TestDoctor: each fault by itself is found, and nothing else is.
func TestDoctor(t *testing.T) {
	waits := func(reason, message string) func(c *clinic) {
		return func(c *clinic) {
			c.agent1.Status.Conditions[0].Status = corev1.ConditionFalse
			c.agent1.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	for _, c := range []struct {
		what   string
		change func(c *clinic)
		says   string // the beginning of its line
		detail string
	}{
		{"no leader", func(c *clinic) { c.lease = "" }, "WRONG  no coordinator leads, so nothing is decided", "no coordinator leads now"},
		{"a leader that nobody reaches", func(c *clinic) { c.deaf = errors.New("connection refused") }, "WRONG  the coordinator that leads cannot be asked", "connection refused"},
		{"a leader that has not said where it is", func(c *clinic) { c.announced.Data = nil }, "WRONG  the coordinator has not said where it is", ""},
		{"the coordinator's CA has expired", func(c *clinic) { c.announced.Data[report.CAKey] = caUntil(t, noon.Add(-time.Hour)) }, "WRONG  the CA of the coordinator has expired", "2026-06-01"},
		{"no pod of a coordinator", func(c *clinic) { c.leader.Labels = nil }, "WRONG  there is no pod of a coordinator", ""},
		{"a coordinator that crashes", func(c *clinic) {
			c.leader.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}}}}
		}, "WRONG  a coordinator does not run", "CrashLoopBackOff (it ended with code 2)"},
		{"an agent that is being created", waits(creating, ""), "WRONG  agents do not run (gpu-1)", "agent-1: ContainerCreating"},
		{"an agent whose mount is missing", func(c *clinic) {
			waits(creating, "")(c)
			c.then = func(d *desk) {
				for i, message := range []string{"the kubelet is at it", "hostPath type check failed: /etc/containerd is not a directory"} {
					event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("e", i), Namespace: "hotplate"}, Type: corev1.EventTypeWarning, Reason: "FailedMount",
						InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-1"}, Message: message, LastTimestamp: metav1.NewTime(noon.Add(time.Duration(i) * time.Minute))}
					if _, err := d.client.CoreV1().Events("hotplate").Create(d.t.Context(), event, metav1.CreateOptions{}); err != nil {
						d.t.Fatal(err)
					}
				}
			}
		}, "WRONG  agents do not run (gpu-1)", "agent-1: ContainerCreating, FailedMount: hostPath type check failed: /etc/containerd is not a directory"},
		{"an old Kubernetes", func(c *clinic) {
			c.then = func(d *desk) { d.served("v1.27.9-eks-1") }
		}, "WRONG  Kubernetes is older than 1.28", "the API server is v1.27.9-eks-1"},
		{"an agent that is not scheduled", func(c *clinic) {
			c.agent1.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Insufficient memory"}}
		}, "WRONG  agents do not run", "not scheduled: Insufficient memory"},
		{"an agent that was evicted", func(c *clinic) {
			c.leader.Labels[componentLabel], c.leader.Status.Phase, c.leader.Status.Reason, c.leader.Status.Message = agentComponent, corev1.PodFailed, "Evicted", "low on memory"
			c.then = func(d *desk) { d.add(pod("other", coordComponent, "cpu-1")) }
		}, "WRONG  the kubelet has evicted pods of hotplate (cpu-1)", "low on memory"},
		{"a startup taint that nobody removes", func(c *clinic) { c.node2.Spec.Taints = []corev1.Taint{{Key: coordinator.StartupTaint}} },
			"WRONG  no agent runs on nodes that need one (cpu-1)", "hotplate.dev/not-ready"},
		{"an annotation on a node without agent", func(c *clinic) { c.node2.Annotations = map[string]string{coordinator.PreheatAnnotation: llama} },
			"WRONG  no agent runs on nodes that need one (cpu-1)", "hotplate.dev/preheat"},
		{"a request for a node without agent", func(c *clinic) {
			c.request.Data[coordinator.RequestKey] = `{"ref":"` + whisper + `","nodes":["cpu-1"]}`
		},
			"WRONG  no agent runs on nodes that need one (cpu-1)", "configmap/preheat-x asks"},
		{"an agent that has gone", func(c *clinic) { c.node2.Labels = map[string]string{coordinator.ReadyLabel: "unknown"} },
			"WRONG  no agent runs on nodes that need one (cpu-1)", "it has had one"},
		{"an agent that was never heard", func(c *clinic) { c.unheard = true; c.node1.Status.Conditions[0].Status = corev1.ConditionFalse },
			"WRONG  the coordinator has never heard the agent (gpu-1)", "the node is not Ready"},
		{"a node that is behind", func(c *clinic) {
			c.status.Ready, c.status.Reason, c.status.Message = report.False, coordinator.ReasonBehind, "an older config"
		},
			"WRONG  nodes are not Ready: ConfigBehind (gpu-1)", "an older config"},
		{"a silent agent", func(c *clinic) {
			c.status.Ready, c.status.Reason, c.status.Message = report.Unknown, coordinator.ReasonSilent, "no report since noon"
			c.report = live(report.False, report.RestartRefused) // which may not be true any more
		}, "WRONG  agents are silent (gpu-1)", "no report since noon\n       do: kubectl -n hotplate logs agent-1"},
		{"no config", func(c *clinic) { c.config.Name = "other" }, "WRONG  there is no config, so agents wait", "configmap/hotplate-config"},
		{"a wrong config", func(c *clinic) { c.config.Data[config.DocumentKey] = "apiVersion: 1" }, "WRONG  the config is not valid", "apiVersion"},
		{"a config that a node rejects", func(c *clinic) {
			c.report = func(r *report.NodeReport) { r.Config.Rejected = []string{"secret x is missing"} }
		},
			"WRONG  nodes reject the newest config, and go by an older one (gpu-1)", "secret x is missing"},
		{"an old containerd", func(c *clinic) { c.node1.Status.NodeInfo.ContainerRuntimeVersion = "containerd://1.5.9" }, "WRONG  containerd is too old (gpu-1)", "1.5.9"},
		{"a containerd that knows no pins", func(c *clinic) { c.node1.Status.NodeInfo.ContainerRuntimeVersion = "containerd://1.6.20~ds1" },
			"WRONG  containerd is too old to protect images from the kubelet (gpu-1)", "1.6.20"},
		{"another runtime", func(c *clinic) { c.node1.Status.NodeInfo.ContainerRuntimeVersion = "cri-o://1.30" }, "WRONG  the container runtime is not containerd (gpu-1)", "cri-o"},
		{"containerd does not answer", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				set(r, report.ContainerdHealthy, report.False, "NotAnswering", "no socket")
			}
		}, "WRONG  containerd does not answer (gpu-1)", "no socket"},
		{"the hosts directory cannot be written", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				set(r, report.RegistriesConfigured, report.False, "WriteFailed", "read-only")
			}
		}, "WRONG  the hosts directory is not as the config says: WriteFailed (gpu-1)", "read-only"},
		{"the hosts directory is not proven", func(c *clinic) { c.report = live(report.Unknown, "ProbeFailed") },
			"WRONG  it is not proven that containerd reads the hosts directory: ProbeFailed (gpu-1)", "it says why"},
		{"a restart that is refused", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				live(report.False, report.RestartRefused)(r)
				r.Restart.Checks = []report.Check{{Name: "shims", Verdict: "refuse", Detail: "one is frozen"}, {Name: "units", Verdict: "pass"}}
			}
		}, "WRONG  containerd does not read the hosts directory yet, and must be restarted: RestartRefused (gpu-1)", "it says why; shims: one is frozen\n"},
		{"a restart that is forbidden", func(c *clinic) { c.report = live(report.False, report.RestartForbidden) },
			"WRONG  containerd does not read the hosts directory yet, and must be restarted: RestartForbidden", "restart.policy"},
		{"a restart that was rolled back", func(c *clinic) { c.report = live(report.False, report.RolledBack) }, "WRONG  the restart of containerd was rolled back (gpu-1)", "journalctl"},
		{"a restart that failed", func(c *clinic) { c.report = live(report.Unknown, report.RestartFailed) }, "WRONG  containerd does not work since its restart (gpu-1)", "mend containerd"},
		{"a restart that waits", func(c *clinic) { c.report = live(report.False, report.OutsideWindow) },
			"NOTE   containerd does not read the hosts directory yet, and must be restarted: OutsideWindow (gpu-1)", "wait"},
		{"a mirror", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				r.Registries = []report.Registry{{Host: "docker.io", State: report.RegistryApplied, Mirrors: []report.Mirror{{URL: "https://mirror.example.com", Message: "x509: unknown authority"},
					{URL: "https://other.example.com", Reachable: true}}}}
			}
		}, "WRONG  the mirror https://mirror.example.com of docker.io cannot be reached (gpu-1)", "x509: unknown authority"},
		{"a certificate that expires", func(c *clinic) { c.report = certificate("Expiring", noon.Add(5*24*time.Hour)) }, "WRONG  the certificate of ca harbor expires soon (gpu-1)", "2026-06-06 (in 5 days)"},
		{"a certificate that has expired", func(c *clinic) { c.report = certificate("Expired", noon.Add(-24*time.Hour)) }, "WRONG  the certificate of ca harbor has expired (gpu-1)", "2026-05-31"},
		{"a rollout that stopped", func(c *clinic) {
			c.rollout.Data = map[string]string{coordinator.RolloutKey: `{"paused":{"node":"gpu-7","reason":"RolledBack: why"}}`}
		},
			"WRONG  restarts of containerd have stopped until a person resumes them", "gpu-7: RolledBack: why"},
		{"a person's pause", func(c *clinic) { c.rollout.Annotations = map[string]string{coordinator.PauseAnnotation: "racks"} }, "NOTE   restarts of containerd are paused by a person", "racks"},
		{"a release", func(c *clinic) { c.rollout.Annotations = map[string]string{coordinator.ReleaseAnnotation: "now"} }, "WRONG  every node is asked to become as it was before hotplate", "release --undo"},
		{"an image that failed", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				r.Images[0].Phase, r.Images[0].Reason, r.Images[0].Message = report.ImageFailed, report.NoSpace, "9 GB are missing"
			}
		}, "WRONG  the image " + llama + " failed: NoSpace (gpu-1)", "9 GB are missing"},
		{"a tag that nobody knows", func(c *clinic) {
			c.status.Ready, c.status.Reason, c.status.Message = report.False, coordinator.ReasonUnresolved, "not resolved: llama: 404"
		}, "WRONG  no registry says what the tag of an image means (gpu-1)", "llama: 404"},
		{"a wrong annotation", func(c *clinic) { c.status.Faults = []string{`"x" is no image`} }, "WRONG  the annotation hotplate.dev/preheat is wrong (gpu-1)", `"x" is no image`},
		{"a request that cannot be read", func(c *clinic) { c.request.Data[coordinator.RequestKey] = "{" }, "WRONG  a preheat request cannot be read", "configmap/preheat-x"},
		{"a disk that is almost full", func(c *clinic) {
			c.report = func(r *report.NodeReport) {
				r.Disk = &report.Disk{Path: "/var/lib/containerd", Size: 1000 << 30, Free: 170 << 30}
			}
		}, "NOTE   the disk is almost so full that by default the kubelet removes images and evicts pods (gpu-1)", "gpu-1: 170.0 GiB of 1000.0 GiB free at /var/lib/containerd, 17 %"},
		{"a disk that is fuller", func(c *clinic) {
			c.report = func(r *report.NodeReport) { r.Disk = &report.Disk{Path: "/var/lib/containerd", Size: 100, Free: 14} }
		}, "NOTE   the disk is so full that by default", "14 %"},
		{"a disk that is full", func(c *clinic) {
			c.node1.Status.Conditions[1].Status = corev1.ConditionTrue
			c.node1.Status.Conditions[1].Message = "kubelet has disk pressure"
			c.report = func(r *report.NodeReport) { r.Disk = &report.Disk{Size: 100, Free: 5} } // the node has said it already
		},
			"WRONG  the disk is so full that the kubelet evicts pods", "kubelet has disk pressure"},
		{"memory that is short", func(c *clinic) { c.node1.Status.Conditions[2].Status = corev1.ConditionTrue }, "WRONG  memory is so short", ""},
		{"a registry that asks to wait", func(c *clinic) {
			c.report = func(r *report.NodeReport) { r.Throttled = []report.Throttle{{Host: "harbor.example.com"}} }
		}, "NOTE   the registry harbor.example.com has asked to be left alone", ""},
		{"no rights for pods", func(c *clinic) { c.then = func(d *desk) { d.forbid("list", "pods") } }, "WRONG  not everything could be looked at", "docs/kubectl.md"},
		{"no rights for the config", func(c *clinic) {
			c.then = func(d *desk) { d.forbid("get", "configmaps") }
		}, "WRONG  not everything could be looked at", "hotplate-config"},
	} {
		t.Run(c.what, func(t *testing.T) {
			is := wellClinic()
			c.change(is)
			d := is.desk(t)
			out, errOut, err := d.run("doctor")
			note := strings.HasPrefix(c.says, "NOTE")
			if note != (err == nil) || !note && !errors.Is(err, errSilent) || !note && !strings.Contains(errOut, "wrong\n") {
				t.Errorf("%v %s", err, errOut)
			}
			if !strings.Contains(out, c.says) || !strings.Contains(out, c.detail) {
				t.Errorf("it does not say %q and %q:\n%s", c.says, c.detail, out)
			}
			want := c.says
			for line := range strings.Lines(out) {
				known := strings.HasPrefix(line, want) || strings.HasPrefix(line, "       ")
				if !known {
					t.Errorf("it also says %s", line)
				}
			}
			if !strings.Contains(out, "       do: ") {
				t.Errorf("it does not say what to do:\n%s", out)
			}
		})
	}
}

// TestDoctorForgetsTheDiskOfASilentNode: what it said before may not be true any more.
func TestDoctorForgetsTheDiskOfASilentNode(t *testing.T) {
	is := wellClinic()
	is.status.Ready, is.status.Reason = report.Unknown, coordinator.ReasonSilent
	is.report = func(r *report.NodeReport) { r.Disk = &report.Disk{Size: 100, Free: 17} }
	out, _, err := is.desk(t).run("doctor")
	if !errors.Is(err, errSilent) || !strings.Contains(out, "WRONG  agents are silent (gpu-1)") || strings.Contains(out, "the disk") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestDoctorDoesNotExplainByANote: what is only almost wrong is not why a node is not Ready.
func TestDoctorDoesNotExplainByANote(t *testing.T) {
	is := wellClinic()
	is.status.Ready, is.status.Reason, is.status.Message = report.False, "ConfigBehind", "behind"
	is.report = func(r *report.NodeReport) { r.Disk = &report.Disk{Size: 100, Free: 17} }
	out, _, err := is.desk(t).run("doctor")
	if !errors.Is(err, errSilent) || !strings.Contains(out, "WRONG  nodes are not Ready: ConfigBehind (gpu-1)") || !strings.Contains(out, "NOTE   the disk is almost so full") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// served makes the API server one of another version.
func (d *desk) served(version string) {
	is, ok := d.client.Discovery().(*fakediscovery.FakeDiscovery)
	if !ok {
		d.t.Fatalf("%T", d.client.Discovery())
	}
	is.FakedServerVersion = &apiversion.Info{GitVersion: version}
}

func (d *desk) add(is *corev1.Pod) {
	d.t.Helper()
	if err := d.client.Tracker().Add(is); err != nil {
		d.t.Fatal(err)
	}
}

func certificate(state string, until time.Time) func(r *report.NodeReport) {
	return func(r *report.NodeReport) {
		r.Certificates = []report.Certificate{{Used: "ca harbor", Subject: "CN=harbor", NotAfter: until, State: state}, {Used: "ca fine", State: "Valid"}}
	}
}

// caUntil is a certificate that ends then.
func caUntil(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestTheNewCACounts: both stand there while one is replaced.
func TestTheNewCACounts(t *testing.T) {
	until, ok := lastCA(caUntil(t, noon) + "nonsense\n" + caUntil(t, noon.Add(time.Hour)))
	if !ok || !until.Equal(noon.Add(time.Hour)) {
		t.Errorf("%v %s", ok, until)
	}
	if _, ok := lastCA("nonsense"); ok {
		t.Error("nonsense is a CA")
	}
}

func TestTheSameOfSeveralNodesIsSaidOnce(t *testing.T) {
	var all findings
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "g"} {
		all.wrong(n, "the mirror is away", "dial from "+n, "look at "+n)
	}
	all.add(finding{What: "a note", Note: true})
	all.wrong("", "the whole", "", "")
	var out bytes.Buffer
	show(&out, all)
	want := "WRONG  the mirror is away (a, b, c, d, e and 2 more)\n       dial from a\n       do: look at a\nWRONG  the whole\nNOTE   a note\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}

func TestDoctorForPrograms(t *testing.T) {
	c := wellClinic()
	c.lease = ""
	out, _, err := c.desk(t).run("doctor", "-o", "json")
	var all []finding
	if jsonErr := json.Unmarshal([]byte(out), &all); jsonErr != nil || !errors.Is(err, errSilent) || len(all) != 1 || all[0].Do == "" {
		t.Errorf("%v %v\n%s", err, jsonErr, out)
	}
	if out, _, err = wellClinic().desk(t).run("doctor", "-o", "json"); err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("nothing is wrong: %v %q", err, out)
	}
}
