// Package kube is what the agent has of the Kubernetes API: its config, and where the coordinator is.
//
// A Source delivers the document in a ConfigMap, and the ConfigMaps and Secrets that it names for certificates and logins,
// as config.FileSource delivers files; a Finder has the address that the leading coordinator announces. Of a Source:
//
//  1. One Reflector of client-go watches each object by itself, with a field selector, as the kubelet watches what its pods
//     name. So nothing else of the namespace is sent to a node, whatever is in it, and of the objects only what they hold is
//     kept: at most 65 (the document, and the 64 that a document may name), each at most 1 MiB, which is the API server's
//     bound.
//  2. An event is a hint: it wakes Next, which waits until there are no more for a moment, so that changes made together are
//     seen together, and looks at everything. A Snapshot is delivered when it says something new.
//  3. What the API said last is kept in one file in the run directory, mode 0600, replaced in one rename, and used where the
//     API does not answer within a few seconds of the start. When it answers, nothing changes unless something has changed.
//
// The run directory is to be on a tmpfs of the host, as /run is: the file holds Secrets. So it survives a restart and an
// upgrade of the agent, which is when it is needed, and no Secret is ever on a disk, where it would outlive the node's
// right to read it: in a backup, in an image made of the node, on a disk that is thrown away. The kubelet keeps Secrets of pods
// on a tmpfs for the same reason. After a reboot the agent has the last good document, which is no secret, in its state
// directory, and needs the API for the rest; what stands in containerd's hosts directory stays in force meanwhile.
//
// A document that does not exist, or does not any more, is a fault of the Snapshot, so that the agent keeps what is in force
// and says so. Secrets are in no error and no log line.
//
// A crash leaves the file of the run directory as it was, or whole.
package kube
