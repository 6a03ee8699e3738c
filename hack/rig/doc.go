// Package rig starts the real parts that tests and the demo run against: a containerd of any line from 1.6 to 2.4, a
// registry, a proxy that misbehaves, whole nodes with systemd, and Kubernetes with such nodes.
//
// It works from tests and from programs: functions take a context and return errors, and everything that was started
// ends with its Close method. Package rigtest wraps them for tests.
//
// # Layout
//
//   - process.go, mounts.go: child processes and what they leave. Every part that is a process uses these.
//   - mounts_volume.go: [Volume], a small disk that can be filled.
//   - containerd.go, containerd_config.go: [Containerd], a private daemon.
//   - cri.go: [CRI], which asks a daemon for images as the kubelet does.
//   - node.go, node_boot.go, node_root.go, node_config.go, node_exec.go: [Node], a machine with systemd and containerd.
//   - cgroups.go: cgroups of a node's own. procfs.go: what /proc says of processes.
//   - supervisor.go: [Supervisor], a private daemon that a plain loop starts again and again, without systemd.
//   - counter.go, counter_image.go: [Counter], a pod that counts, to see what a restart loses.
//   - sandbox.go: [Sandboxed], a program that runs as in a pod.
//   - place.go: what nodes and supervisors have in common, for these two.
//   - ca.go: [CA], certificates for all of them, expired ones included.
//   - registry.go: [Registry], the distribution registry with TLS and passwords.
//   - proxy.go, fault.go: [Proxy], which stands in front of a registry, records requests and plays a [Fault].
//   - proxy_away.go: a proxy that is away for a while.
//   - proxy_link.go: [Link], a plain TCP proxy that makes every connection as slow as a real network's.
//   - image.go, layer.go, push.go: model images of any size, generated while they are read, and pushing them.
//   - image_layers.go: images of any layers, where [ModelSpec] has not what a measurement needs.
//   - kube.go, kube_control.go, kube_pki.go: [Cluster], its control plane and its certificates.
//   - kube_network.go, netns.go: its networks, in namespaces without names.
//   - kube_node.go, kube_node_config.go: [ClusterNode], a node with a kubelet and kube-proxy.
//   - kube_registry.go: its registry, and images for it.
//   - kube_client.go, kube_wait.go: how tests reach it, and wait.
//
// The programs come from package hack/tools, which builds them once into a cache.
//
// # How a process lives
//
//  1. Its program is built if the cache does not have it.
//  2. Its configuration is written below its Dir. Nothing of the host's own containerd, CNI, NRI or CDI is read or
//     written. Proxy variables are not inherited.
//  3. It starts in a process group of its own, with its output in a log below Dir.
//  4. Start returns when it answers. If it ends or a minute passes first, the error has the end of the log.
//  5. Close sends SIGTERM, after ten seconds SIGKILL, waits for it, ends its containers and takes its mounts away. Only
//     what this package started is ended. Dir stays for a look at it.
//
// When the test process dies, the kernel kills the parts, for they ask for that (PR_SET_PDEATHSIG). Then pods' shims
// and their mounts below Dir are left, and directories /run/rig-*, which hold sockets of daemons with a long Dir.
// Daemons from 1.7 to 2.2 create /run/containerd, and pods' shims have their sockets in /run/containerd/s: the paths
// are compiled into containerd.
//
// # A node
//
// [StartNode] boots Debian with systemd as its first process, in less than a second. containerd is a unit, upstream's
// to the letter, and its programs are in /usr/local/bin. Tests say what differs: config.toml, files, drop-ins and
// units.
//
//	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4", ConfigTOML: text, DropIns: map[string]string{"10-kill.conf": dropIn}})
//	out, err := n.Systemctl(ctx, "show", "-p", "MainPID", "containerd")
//	text, err := os.ReadFile(n.Path("/etc/containerd/config.toml"))
//	c := rigtest.Counter(t, n, "a")   // a pod; c.Status before and after, c.Check, c.LargestGap
//	p, err := n.RunSandboxed(ctx, rig.SandboxConfig{Program: bin, Argv: []string{"/bin/agent"}, Mounts: []rig.SandboxMount{
//		{Source: "/run/systemd"}, {Source: "/run/containerd"}, {Source: "/var/lib/hotplate"}}})
//
// A node has PID, mount, network, UTS, IPC and cgroup namespaces of its own and a cgroup of its own in every hierarchy:
// nodes in one cgroup would share their trees, and then KillMode kills what it should not, or nothing. /etc and /var
// are plain directories below Dir, the rest of the root is an overlay; all of it survives [Node.Reboot] and
// [Node.Kill]. boot_id changes with each boot, in sandboxes as well, though not in other pods, which see the kernel's.
// Where this machine has no CAP_SYS_RESOURCE, a script in front of runc lets pods start all the same, whatever the
// configuration says. A node takes eight inotify instances, so with Linux's default of 128 fifteen can run at once.
//
// systemctl in a sandbox without HostPID does not work, for it wants to know the process id of systemd; programs that
// speak D-Bus do not, and work.
//
// systemd-nspawn, which boots it, is the first process of a PID namespace around the node: when the test process dies,
// the kernel kills all of the node and takes its mounts and network away. What is left are Dir and empty cgroups named
// rig-PID-*, which the next node's or supervisor's start removes.
//
// # A cluster
//
// [StartCluster] starts etcd, the API server with the Node and RBAC authorisers and NodeRestriction, controller manager,
// scheduler and CoreDNS, a registry with a proxy in front of it that counts, and any number of nodes with containerd, kubelet and
// kube-proxy. Three nodes are Ready in about ten seconds.
//
//	c := rigtest.Cluster(t, rig.ClusterConfig{Nodes: make([]rig.ClusterNodeConfig, 3)})
//	ref, digest, err := c.Push(ctx, "models/llama:v1", image)
//	out, err := c.Kubectl(ctx, "annotate", "node", "node-1", "hotplate.dev/preheat="+ref)
//	client, err := kubernetes.NewForConfig(c.RESTConfig())
//	n, err := c.AddNode(ctx, rig.ClusterNodeConfig{KubeletArgs: []string{"--register-with-taints=example.com/x:NoSchedule"}})
//	err = c.WaitNodesReady(ctx, n.Name)
//	err = n.CutOff(ctx)             // and Reconnect; Kill, PowerOff, Boot, Reboot and all else of a Node
//	err = c.StopAPIServer(ctx)      // and StartAPIServer; StopRegistry and StartRegistry
//	requests := c.Front().Requests()
//
// The control plane has a network namespace of its own, and so has each node, anew at each boot. A bridge in the first
// connects them. None has a name, and nothing is in this machine's own network: clusters have the same addresses and do
// not meet. Tests reach into it with [Cluster.Dial], as RESTConfig and Push do, with [Cluster.Listen] for servers that
// pods are to reach, and with [Cluster.Exec] for programs.
//
// Nodes trust the cluster's [CA] as they trust the authorities on the internet, so they pull from Front's Host without
// any hosts.toml; nothing of certs.d is there unless the test writes it. A registry that they do not trust is one more
// proxy, with a certificate of another CA: [Cluster.StartProxy]. The sandbox image is there before the kubelet starts.
// DNS knows the names of services, and no others.
//
// On one machine all nodes have its disk, clock, kernel and /dev/kmsg: the kubelet's thresholds for the disk are low, and
// it collects no images unless KubeletConfig says so.
//
// When the test process dies, the kernel kills the control plane and the nodes, and with the last of them the networks go.
//
// # To add a part
//
//  1. Add how to build it: see package hack/tools.
//  2. Write a Config struct, a Start function and a type in a file of its own. Use command to start it, waitReady to
//     wait for a condition that shows that it works, and process.stop in Close.
//  3. Add a function to rigtest that starts it for a test.
//  4. Show in an e2e test that it starts, works, ends, and leaves neither process nor mount.
package rig
