package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// diagnose concludes. It is a function of the evidence alone.
func (e *evidence) diagnose() findings {
	all := findings{} // what is printed as JSON is a list, also where it is empty
	for _, err := range e.unseen {
		all.wrong("", "not everything could be looked at", hint(err), "docs/kubectl.md has the rights that doctor needs")
	}
	e.served(&all)
	e.leading(&all)
	e.running(&all)
	e.configured(&all)
	e.rolling(&all)
	e.requested(&all)
	for _, node := range e.nodes {
		e.nodeObject(&all, node)
	}
	for _, is := range e.heard {
		e.nodeStatus(&all, is)
	}
	if e.unasked > 0 {
		all.add(finding{What: fmt.Sprintf("%d nodes were not asked for their reports", e.unasked), Note: true,
			Do: "kubectl hotplate status shows all nodes, kubectl hotplate status NODE one of them"})
	}
	return all
}

// oldestServer is the minor version of Kubernetes 1 that docs/install.md asks for.
const oldestServer = 28

// served is about the API server. What does not look like a version of Kubernetes is not judged.
func (e *evidence) served(all *findings) {
	var major, minor int
	if n, _ := fmt.Sscanf(e.server, "v%d.%d", &major, &minor); n == 2 && major == 1 && minor < oldestServer {
		all.wrong("", fmt.Sprintf("Kubernetes is older than 1.%d", oldestServer), "the API server is "+e.server, "upgrade it; docs/install.md has what hotplate needs")
	}
}

// leading is about the coordinator.
func (e *evidence) leading(all *findings) {
	logs := fmt.Sprintf("kubectl -n %s logs -l %s=%s --tail=50", e.namespace, componentLabel, coordComponent)
	if e.leadErr != nil {
		all.wrong("", "no coordinator leads, so nothing is decided; nodes stay as they are", e.leadErr.Error(), logs)
	}
	if e.askErr != nil {
		all.wrong("", "the coordinator that leads cannot be asked", hint(e.askErr),
			"let the API server reach port "+statusPort+" of its pod (networkPolicy.statusFrom, firewalls); if it does not run, see its log: "+logs)
	}
	if e.leader != "" && e.announcedErr == nil && (e.announced == nil || e.announced.Data[report.URLKey] == "") {
		all.wrong("", "the coordinator has not said where it is, so agents cannot find it", "configmap/"+report.CoordinatorName+" has no "+report.URLKey, logs)
	}
	if e.announced == nil {
		return
	}
	if until, ok := lastCA(e.announced.Data[report.CAKey]); ok && !until.After(e.now) {
		all.wrong("", "the CA of the coordinator has expired, so no agent trusts it", "on "+until.Format(time.DateOnly),
			"renew the Secret that coordinator.tlsSecret names; where there is none, "+logs)
	}
}

// lastCA is when the last of some certificates ends.
func lastCA(text string) (last time.Time, ok bool) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return last, ok
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.After(last) {
			last, ok = cert.NotAfter, true
		}
	}
}

// running is about the pods of hotplate.
func (e *evidence) running(all *findings) {
	found := map[string]int{}
	for _, pod := range e.pods {
		kind := pod.Labels[componentLabel]
		if kind != agentComponent && kind != coordComponent {
			continue
		}
		found[kind]++
		look := fmt.Sprintf("kubectl -n %s describe pod %s; docs/install.md, When it does not start", e.namespace, pod.Name)
		why := trouble(pod)
		if says := e.warnings[pod.Name]; why == creating && says != "" {
			why += ", " + says
		}
		switch {
		case pod.Status.Reason == "Evicted":
			all.wrong(pod.Spec.NodeName, "the kubelet has evicted pods of hotplate", pod.Name+": "+pod.Status.Message,
				"make room on the node; docs/install.md says how to keep agents from being evicted")
		case pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
			// It has been replaced.
		case why != "" && kind == agentComponent:
			all.wrong(pod.Spec.NodeName, "agents do not run", pod.Name+": "+why, look)
		case why != "":
			all.wrong("", "a coordinator does not run", pod.Name+": "+why, look)
		}
	}
	if e.podsErr != nil {
		return
	}
	if found[coordComponent] == 0 {
		all.wrong("", "there is no pod of a coordinator in namespace "+e.namespace, "", "install hotplate, or say with --namespace where it is")
	}
	if found[agentComponent] == 0 {
		all.wrong("", "there is no pod of an agent in namespace "+e.namespace, "",
			"see why the DaemonSet makes none: kubectl -n "+e.namespace+" describe daemonset hotplate-agent")
	}
}

// configured is about the config that people write.
func (e *evidence) configured(all *findings) {
	if e.config == nil {
		if e.configErr != nil {
			return
		}
		all.wrong("", "there is no config, so agents wait", "no configmap/"+configName+" in namespace "+e.namespace,
			fmt.Sprintf("kubectl -n %s create configmap %s --from-file=%s", e.namespace, configName, config.DocumentKey))
		return
	}
	if _, err := config.Decode(configName, []byte(e.config.Data[config.DocumentKey])); err != nil {
		all.wrong("", "the config is not valid, so an older one stays in force", err.Error(), "mend it; hotplate lint "+config.DocumentKey+" shows the same")
	}
}

// rolling is about restarts of containerd.
func (e *evidence) rolling(all *findings) {
	if p := e.restarts.Paused; p != nil {
		all.wrong("", "restarts of containerd have stopped until a person resumes them", fmt.Sprintf("%s: %s", p.Node, p.Reason),
			"see kubectl hotplate restarts, mend what went wrong, then kubectl hotplate resume")
	}
	if e.rollout == nil {
		return
	}
	if why := e.rollout.Annotations[coordinator.PauseAnnotation]; why != "" {
		all.add(finding{What: "restarts of containerd are paused by a person", Detail: why, Do: "kubectl hotplate resume, when that is over", Note: true})
	}
	if asked := e.rollout.Annotations[coordinator.ReleaseAnnotation]; asked != "" {
		all.wrong("", "every node is asked to become as it was before hotplate", "asked at "+asked,
			fmt.Sprintf("if that is not meant any more: kubectl -n %s exec deploy/hotplate-coordinator -- /hotplate-coordinator release --undo", e.namespace))
	}
}

// requested is about preheat requests.
func (e *evidence) requested(all *findings) {
	for _, r := range e.requests {
		if r.err != nil {
			all.wrong("", "a preheat request cannot be read, so nobody follows it", fmt.Sprintf("configmap/%s: %v", r.name, r.err), "kubectl hotplate cancel "+r.name)
		}
	}
}

// nodeObject is about what can be seen of a node without its agent.
func (e *evidence) nodeObject(all *findings, node corev1.Node) {
	agent := e.agentOn(node.Name)
	if why := e.expected(node); agent == nil && e.podsErr == nil && why != "" {
		all.wrong(node.Name, "no agent runs on nodes that need one", why,
			fmt.Sprintf("let the agents' DaemonSet have them (agent.nodeSelector, agent.tolerations, extraTaints): kubectl -n %s describe daemonset hotplate-agent", e.namespace))
	}
	if agent == nil {
		return
	}
	if c := pressed(node, corev1.NodeDiskPressure); c != nil {
		all.wrong(node.Name, "the disk is so full that the kubelet evicts pods and removes images that are not pinned", c.Message,
			"free space on the node, or have fewer images there; raise prefetch.diskReserve, so that hotplate stops earlier")
	}
	if c := pressed(node, corev1.NodeMemoryPressure); c != nil {
		all.wrong(node.Name, "memory is so short that the kubelet evicts pods", c.Message, "free memory on the node")
	}
	e.runtime(all, node)
	if slices.ContainsFunc(e.heard, func(is coordinator.NodeStatus) bool { return is.Node == node.Name }) || e.askErr != nil || e.leadErr != nil {
		return
	}
	detail := "its pod " + agent.Name + " runs"
	if why := trouble(*agent); why != "" {
		detail = agent.Name + ": " + why
	}
	all.wrong(node.Name, "the coordinator has never heard the agent", detail+notReady(node), fmt.Sprintf("kubectl -n %s logs %s --tail=50", e.namespace, agent.Name))
}

// pressed is the condition of a kind of pressure that a node is under, or nil.
func pressed(node corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	if c := nodeCondition(node, string(kind)); c != nil && c.Status == corev1.ConditionTrue {
		return c
	}
	return nil
}

// notReady says that the node itself is in trouble.
func notReady(node corev1.Node) string {
	if c := nodeCondition(node, string(corev1.NodeReady)); c != nil && c.Status != corev1.ConditionTrue {
		return "; the node is not Ready: " + c.Message
	}
	return ""
}

// expected says why a node should have an agent; empty if nothing says so.
func (e *evidence) expected(node corev1.Node) string {
	for _, t := range node.Spec.Taints {
		if t.Key == coordinator.StartupTaint {
			return "it has the taint " + t.Key + ", which only hotplate removes"
		}
	}
	if node.Annotations[coordinator.PreheatAnnotation] != "" {
		return "it has the annotation " + coordinator.PreheatAnnotation
	}
	if _, ok := node.Labels[coordinator.ReadyLabel]; ok {
		return "it has had one"
	}
	for _, r := range e.requests {
		if r.err == nil && (slices.Contains(r.Nodes, node.Name) || len(r.NodeSelector) > 0 && lacks(r.NodeSelector, node.Labels) == "") {
			return "configmap/" + r.name + " asks for an image there"
		}
	}
	return ""
}

// The containerds that cannot do what is asked of them (docs/operations.md).
func oldest() hostconfig.Version { return hostconfig.Version{Major: 1, Minor: 6} }

// runtime is about the version of containerd.
func (e *evidence) runtime(all *findings, node corev1.Node) {
	name, text, _ := strings.Cut(node.Status.NodeInfo.ContainerRuntimeVersion, "://")
	if name != "containerd" {
		if name != "" {
			all.wrong(node.Name, "the container runtime is not containerd", node.Status.NodeInfo.ContainerRuntimeVersion,
				"keep agents away from these nodes: agent.nodeSelector")
		}
		return
	}
	v, err := hostconfig.ParseVersion(text)
	switch {
	case err != nil || v.IsZero():
	case v.Compare(oldest()) < 0:
		all.wrong(node.Name, "containerd is too old", text, "bring it to 1.6.22, 1.7.3 or later: hotplate was tried with 1.6 to 2.4")
	case v.Major == 1 && (v.Minor == 6 && v.Patch < 22 || v.Minor == 7 && v.Patch < 3):
		all.wrong(node.Name, "containerd is too old to protect images from the kubelet", text, "bring it to 1.6.22, 1.7.3 or later; until then the kubelet may remove images when it needs the room")
	}
}
