// Package cluster shows hotplate as a whole on a real Kubernetes: the chart is installed with helm as a user would, from the image
// that hack/image builds, on nodes with systemd, containerd and kubelet (package hack/rig), and then it is edited, annotated,
// broken and removed. It has tests only, with the tag e2e; each row prints what happened in a table.
package cluster
