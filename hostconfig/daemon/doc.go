// Package daemon describes the containerd daemon of this node: what it is, what its configuration claims, and which
// proxy its environment names. It changes nothing.
//
// What a daemon claims is a hint and never a verdict: containerd 2.4.2 exports a config_path that its transfer service
// ignores when it is a list, and 2.0 to 2.3 export none at all. Package probe finds out what the daemon does.
//
// A crash leaves nothing behind.
package daemon
