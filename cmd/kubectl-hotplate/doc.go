// Command kubectl-hotplate is the kubectl plugin: what people see of hotplate in a cluster, and what they may tell it. It talks
// with the Kubernetes API alone; what only the coordinator knows, it asks of the one that leads, through the API server's proxy
// to that pod. One file holds one command.
//
// # Which namespace
//
// hotplate has one namespace of its own, and a user of it is mostly somewhere else: with the pods that need the images. So
// --namespace is hotplate's, and it is "hotplate" unless it is given; the namespace of the kubeconfig's context does not count.
// All other flags, and kubeconfig, are kubectl's.
//
// # What the user must be allowed to do
//
// docs/kubectl.md has roles to copy. In hotplate's namespace: get leases, configmaps and pods/proxy, list pods and configmaps;
// create and delete configmaps for preheat and cancel; patch the configmap hotplate-rollout for pause and resume. In the cluster:
// get and list nodes. Nothing of hotplate can be steered by who may not write ConfigMaps in its namespace.
//
// # Exit codes
//
// 0; 1 when something went wrong, which standard error says in one line with the next step, when doctor finds something wrong, or
// when what preheat waits for does not come. Tables and documents go to standard output, all else to standard error.
//
// # What a crash leaves
//
// Every command that writes, writes once. preheat makes a request, whose name follows from what it says, so that the same command
// again finds it; resume and pause set annotations.
package main
