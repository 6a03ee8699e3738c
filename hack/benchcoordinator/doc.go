// Command benchcoordinator measures the coordinator of a large cluster: simulated agents, real TLS and tokens, against a real API
// server. It needs root, and a machine with nothing else to do.
//
//	make bench-coordinator                               5,000 nodes: a quarter of an hour or more
//	go run ./hack/benchcoordinator -nodes 1000 -steady 1m
//
// # What is real
//
// The control plane is hack/rig's: etcd, kube-apiserver, controller manager and scheduler, which run no controller that would write
// on Nodes, because no kubelet is there. Each node has a Node object as a kubelet makes it, with thirty images and the startup
// taint, and one agent pod, which never runs: the token of an agent is bound to it, so that the API server vouches for pod and node.
// The coordinator is the program itself, a process of its own, and asks the API as its service account with the chart's
// roles, so that the API server's fairness treats it as it would in a cluster. The image is in the rig's registry, and the
// coordinator resolves its tag there.
//
// An agent is a goroutine and a TLS session of its own. It waits by package agent/link's Rhythm, and asks by itself, because a Link
// measures nothing, and packs every report anew in most of a megabyte. Fetching an image takes -fetch and a share at random. What agents
// themselves ask of the API, some watches each, is not there; one Finder and one Source watch for all of them.
//
// # Steps
//
//  1. The cluster, Nodes, pods and tokens are made, and a coordinator leads.
//  2. Fill: agents begin, spread over -ramp, with nothing. It ends when every Node says Ready and is untainted.
//  3. Steady: nothing happens for -steady but reports every half minute, which write nothing.
//  4. Change: the config wants a second image. When half of the nodes have it, the coordinator is killed (-9), and another replica
//     starts at another address, as another pod would. It has to wait until the Lease has run out. It ends when every Node is Ready
//     again. What a Node said of the first image must not have changed meanwhile, nor may any have become Unknown.
//
// # Numbers
//
// A report takes from the first byte of the request to the last of the answer, as the agent sees it, which shares the cores with
// everything else. The coordinator believes the API server's word of a token for two minutes; reports that come with such a token
// are counted apart, by the time of the last one that did not. Writes are counted by the API server's own metrics, so that they
// do not depend on what the coordinator thinks, and once more by the coordinator's.
//
// # What is left behind
//
// Results are in hack/benchcoordinator/results; numbers of a machine that has other work say little. Logs and the cluster's files
// are in a temporary directory, which is removed unless it failed. Killed, the kernel ends every process.
package main
