// Package tools builds the real programs that the rig starts: containerd of every line, a registry, Kubernetes with etcd,
// CNI plugins and helm, the linter, and the root of systemd nodes.
//
// Each part has a directory beside this file with a module of its own. One module for all of them would not do: minimal
// version selection would build every part with the newest dependency that any part asks for, and then a test would run
// a containerd that nobody ships. A part's go.mod names its programs with tool directives and pins its version; the
// version is written nowhere else.
//
// [Builder.Ensure] gives the directory with a part's programs:
//
//  1. It computes a key from all files of the part's module, the Go version and the build flags.
//  2. If <user cache>/hotplate/tools/<part>-<key> exists, that is the answer.
//  3. Otherwise it takes the part's file lock, so that test processes that run in parallel build once, and looks again.
//  4. It builds into a temporary directory beside the final one and renames it.
//
// containerd 1.6 does not come from a module but from Debian 12's package, which is downloaded and unpacked into the
// cache and never installed.
//
// node-root is no program but the root directory of a small Debian with systemd, made by debootstrap. Nothing runs in it
// or writes to it: nodes have writable layers of their own.
//
// A crash leaves a temporary directory, which the next build of that part removes. Nothing removes parts of older keys:
// delete the cache directory to get the space back.
//
// # To add a part
//
//	mkdir hack/tools/NAME && cd hack/tools/NAME
//	go mod init github.com/hotplate-dev/hotplate/hack/tools/NAME
//	go get -tool MODULE/cmd/PROGRAM@VERSION    # once for each program
//	go mod edit -go=VERSION                    # that of the main go.mod, unless the part needs a newer one
//
// and add a line to [Parts]. To raise a version, run the go get lines again. CoreDNS is compiled with the plugins that
// its main package names, so that one has a program of its own here, which is the module's tool.
package tools
