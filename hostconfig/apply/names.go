package apply

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// maxName is the longest file name that Linux file systems take, in bytes.
const maxName = 255

// validDir reports whether dir can be the name of a host directory. That makes it safe as a path.
func validDir(dir string) bool {
	return len(dir) <= maxName && hostconfig.ValidHost(hostconfig.HostOfDir(dir)) == nil
}

// validFile reports whether p can be a file of ours: one directory deep, in SharedDir or a host directory.
func validFile(p string) bool {
	dir, name, ok := strings.Cut(p, "/")
	return ok && (dir == hostconfig.SharedDir || validDir(dir)) && p != tempDir && p != keptDir &&
		name != "" && len(name) <= maxName && name[0] != '.' && !strings.ContainsFunc(name, unusual)
}

func unusual(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }

// checkTree refuses what Render never makes. It is the last guard before names become paths.
func checkTree(tree hostconfig.Tree) error {
	var errs []error
	for _, p := range tree.Paths() {
		f := tree[p]
		switch {
		case !validFile(p):
			errs = append(errs, fmt.Errorf("%q is not a path that hotplate writes", p))
		case f.Mode&^0o777 != 0 || f.Mode&0o600 != 0o600:
			errs = append(errs, fmt.Errorf("%q has mode %v; its owner must have rw, and special bits are not used", p,
				f.Mode))
		case len(f.Data) > hostconfig.MaxFileSize:
			errs = append(errs, fmt.Errorf("%q has %d bytes; more than %d are not read back", p, len(f.Data),
				hostconfig.MaxFileSize))
		case len(f.Data) == 0:
			errs = append(errs, fmt.Errorf("%q is empty; containerd goes to upstream for an empty hosts.toml", p))
		}
	}
	for _, dir := range tree.HostDirs() {
		if _, ok := tree[dir+"/"+hostconfig.HostsTOML]; !ok && validDir(dir) {
			errs = append(errs, fmt.Errorf("%q would have no %s; containerd goes to upstream then", dir,
				hostconfig.HostsTOML))
		}
	}
	return errors.Join(errs...)
}

// hosts returns set with the registry hosts of its directories instead.
func hosts(set map[string]bool) map[string]bool {
	out := map[string]bool{}
	for dir, on := range set {
		if on {
			out[hostconfig.HostOfDir(dir)] = true
		}
	}
	return out
}

// hostOf returns the registry host whose directory the path is in.
func hostOf(p string) string {
	dir, _, _ := strings.Cut(path.Clean(p), "/")
	return hostconfig.HostOfDir(dir)
}
