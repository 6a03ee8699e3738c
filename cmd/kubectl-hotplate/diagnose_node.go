package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// nodeStatus is about what the coordinator and the agent say of a node.
func (e *evidence) nodeStatus(all *findings, is coordinator.NodeStatus) {
	if is.Reason == coordinator.ReasonSilent {
		detail, do := is.Message, fmt.Sprintf("kubectl -n %s get pods -o wide: no agent runs there any more", e.namespace)
		if agent := e.agentOn(is.Node); agent != nil {
			do = fmt.Sprintf("kubectl -n %s logs %s --tail=50: see whether it runs, and reaches the coordinator", e.namespace, agent.Name)
			if why := trouble(*agent); why != "" {
				detail += "; its pod " + agent.Name + ": " + why
			}
		}
		for _, node := range e.nodes {
			if node.Name == is.Node {
				detail += notReady(node)
			}
		}
		all.wrong(is.Node, "agents are silent", detail, do)
		return // what it said before may not be true any more
	}
	for _, fault := range is.Faults {
		all.wrong(is.Node, "the annotation "+coordinator.PreheatAnnotation+" is wrong", fault, "mend it: kubectl annotate --overwrite node "+is.Node+" "+coordinator.PreheatAnnotation+"=…")
	}
	if is.Reason == coordinator.ReasonUnresolved {
		all.wrong(is.Node, "no registry says what the tag of an image means", is.Message, "see that the image is there under that name, and that the config's login may read it")
	}
	full := e.reports[is.Node].Report
	if full != nil {
		all.report(is.Node, *full, e.now)
	}
	all.unexplained(is)
	if full != nil && full.Disk != nil {
		e.disk(all, is.Node, *full.Disk)
	}
}

// By default the kubelet removes images and evicts pods when less than fullPercent of the disk are free
// (imageGCHighThresholdPercent, evictionHard imagefs.available). Somebody should know when it is less than soonPercent.
const fullPercent, soonPercent = 15, 20

// disk is about a disk that the kubelet is not in trouble with yet; where it is, the Node has said so. It explains nothing else of
// the node.
func (e *evidence) disk(all *findings, node string, d report.Disk) {
	if d.Size <= 0 || d.Free*100 >= soonPercent*d.Size || slices.ContainsFunc(e.nodes, func(n corev1.Node) bool {
		return n.Name == node && pressed(n, corev1.NodeDiskPressure) != nil
	}) {
		return
	}
	what := "the disk is almost so full that by default the kubelet removes images and evicts pods"
	if d.Free*100 < fullPercent*d.Size {
		what = "the disk is so full that by default the kubelet removes images and evicts pods"
	}
	all.add(finding{What: what, Detail: fmt.Sprintf("%s: %s of %s free at %s, %d %%; the default is %d %%", node, report.Bytes(d.Free), report.Bytes(d.Size), d.Path,
		d.Free*100/d.Size, fullPercent), Nodes: []string{node}, Note: true, Do: "free space on the node, or have fewer images there"})
}

// unexplained is about a node that is not Ready, of which nothing else is said.
func (f *findings) unexplained(is coordinator.NodeStatus) {
	if is.Ready == report.True || is.Reason == coordinator.ReasonPreparing || is.Reason == report.Restarting ||
		slices.ContainsFunc(*f, func(o finding) bool { return slices.Contains(o.Nodes, is.Node) }) {
		return
	}
	f.wrong(is.Node, "nodes are not Ready: "+is.Reason, is.Message, "see what they say: kubectl hotplate status "+is.Node)
}

// report is about what an agent reports.
func (f *findings) report(node string, r report.NodeReport, now time.Time) {
	for _, fault := range r.Config.Rejected {
		f.wrong(node, "nodes reject the newest config, and go by an older one", fault, "mend it: hotplate lint shows the same; what it says of Secrets and certificates only nodes know")
	}
	if c := r.Condition(report.ContainerdHealthy); c.Status != report.True && c.Reason != report.Restarting {
		f.wrong(node, "containerd does not answer", c.Message, "look at its log on the node: journalctl -u containerd")
	}
	if c := r.Condition(report.RegistriesConfigured); c.Status == report.False {
		f.wrong(node, "the hosts directory is not as the config says: "+c.Reason, c.Message, "docs/operations.md, Conditions")
	}
	f.hosts(node, r)
	for _, reg := range r.Registries {
		for _, m := range reg.Mirrors {
			if !m.Reachable {
				f.wrong(node, "the mirror "+m.URL+" of "+reg.Host+" cannot be reached", m.Message, "see whether it answers from the node, and whether its certificate is that of the config's CA")
			}
		}
	}
	for _, c := range r.Certificates {
		what := ""
		switch c.State {
		case "Expired":
			what = fmt.Sprintf("the certificate of %s has expired", c.Used)
		case "Expiring":
			what = fmt.Sprintf("the certificate of %s expires soon", c.Used)
		case "NotYetValid":
			what = fmt.Sprintf("the certificate of %s is not valid yet", c.Used)
		default:
			continue
		}
		f.wrong(node, what, fmt.Sprintf("%s, %s (in %d days)", c.Subject, c.NotAfter.Format(time.DateOnly), int(c.NotAfter.Sub(now).Hours()/24)),
			"put the new one into its Secret or ConfigMap; nothing has to be restarted")
	}
	f.images(node, r)
	for _, t := range r.Throttled {
		f.add(finding{What: "the registry " + t.Host + " has asked to be left alone for a while", Nodes: []string{node}, Note: true,
			Do: "raise its limit, or lower cluster.maxConcurrentNodes, if that is often so"})
	}
}

// hosts is about a containerd that does not read the hosts directory.
func (f *findings) hosts(node string, r report.NodeReport) {
	c := r.Condition(report.HostsLive)
	if c.Status == report.True || c.Reason == report.Restarting {
		return
	}
	detail := c.Message
	for _, check := range r.Restart.Checks {
		if check.Verdict == "refuse" || check.Verdict == "defer" {
			detail += "; " + strings.TrimSuffix(check.Name+": "+check.Detail, ": ")
		}
	}
	what := "containerd does not read the hosts directory yet, and must be restarted: " + c.Reason
	switch c.Reason {
	case report.OutsideWindow, report.RestartDeferred, report.WaitsForSlot:
		f.add(finding{What: what, Detail: detail, Nodes: []string{node}, Note: true, Do: "wait: it is done by itself; kubectl hotplate restarts says more"})
	case report.RestartNeeded, report.RestartForbidden:
		f.wrong(node, what, detail, "let hotplate restart it (restart.policy, agent.mayRestart), or set config_path to the hosts directory and restart containerd yourself")
	case report.RestartRefused:
		f.wrong(node, what, detail, "do what the check says; docs/restart.md has each")
	case report.RolledBack:
		f.wrong(node, "the restart of containerd was rolled back", detail, "journalctl -u containerd on the node says why; docs/operations.md, Restarting containerd")
	case report.RestartFailed:
		f.wrong(node, "containerd does not work since its restart", detail, "mend containerd on the node; hotplate does not touch it any more")
	default:
		f.wrong(node, "it is not proven that containerd reads the hosts directory: "+c.Reason, detail, "if it stays so for minutes, docs/operations.md, Conditions, HostsLive")
	}
}

// images is about images that failed.
func (f *findings) images(node string, r report.NodeReport) {
	for _, img := range r.Images {
		if img.Phase != report.ImageFailed {
			continue
		}
		do := "do what the message says; docs/operations.md, Images"
		switch img.Reason {
		case report.NoSpace:
			do = "free space on the node, have fewer images there, or set prefetch.keepLayers: Never"
		case report.TooMuchPinned:
			do = "take an image out of the config, set pin: false, or raise prefetch.maxPinned"
		case report.ImageBroken:
			do = "rebuild the image and push it again: nobody can unpack it"
		}
		f.wrong(node, fmt.Sprintf("the image %s failed: %s", img.Ref, img.Reason), img.Message, do)
	}
}
