package hostconfig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// maxName is the longest file name that Linux file systems take, in bytes.
const maxName = 255

// LookupDirs returns the names of the directories that containerd looks for, in its order; the first that exists is
// used and the others are not looked at (hostPaths in core/remotes/docker/config/config_unix.go, 2.4.2).
func LookupDirs(host string) []string {
	dirs := ownDirs(host)
	if host == DefaultHost {
		return dirs
	}
	return append(dirs, DefaultHost)
}

// ownDirs returns the spellings of the directory of one host, in containerd's order.
func ownDirs(host string) []string {
	// hostDirectory of hosts.go turns the last colon to "_", of whatever kind it is.
	if i := strings.LastIndex(host, ":"); i > 0 {
		return []string{host[:i] + "_" + host[i+1:] + "_", host}
	}
	return []string{host}
}

// HostDir returns the name of the directory that hotplate uses for host: host_port_ where there is a port, which
// containerd looks up first, otherwise the host as it is. For an IPv6 address without port the first spelling would be
// [fd00:_1]_, an accident that a later containerd may mend.
func HostDir(host string) string {
	if name, port, ok := splitPort(host); ok && port != "" {
		return name + "_" + port + "_"
	}
	return host
}

// HostOfDir returns the registry host whose directory is called dir: the inverse of LookupDirs.
func HostOfDir(dir string) string {
	name, ok := strings.CutSuffix(dir, "_")
	i := strings.LastIndex(name, "_")
	if !ok || i <= 0 {
		return dir
	}
	return name[:i] + ":" + name[i+1:]
}

// splitPort cuts the port off a host; ok is false for text that is no host at all.
func splitPort(host string) (name, port string, ok bool) {
	i := strings.LastIndex(host, ":")
	if i < 0 || strings.HasSuffix(host, "]") {
		return host, "", host != ""
	}
	return host[:i], host[i+1:], i > 0
}

// ValidHost checks the host of a registry: DefaultHost, or what an image reference may begin with (a name or a
// bracketed IPv6 address, with or without a port). It is safe as the name of a directory.
func ValidHost(host string) error {
	if host == DefaultHost {
		return nil
	}
	if err := validAuthority(host, ""); err != nil {
		return fmt.Errorf("host %q: %w", shorten(host), err)
	}
	if len(HostDir(host)) > maxName {
		return fmt.Errorf("host %q: it is longer than a directory name can be", shorten(host))
	}
	return nil
}

// validAuthority checks host[:port]. Letters, digits, dots, dashes and the characters of extra may make up a name.
func validAuthority(host, extra string) error {
	name, port, ok := splitPort(host)
	if !ok || name == "" {
		return errors.New("it has no name")
	}
	if port != "" || strings.HasSuffix(host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return errors.New("its port is not a number from 1 to 65535")
		}
	}
	if literal, ok := strings.CutPrefix(name, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		addr, err := netip.ParseAddr(literal)
		if !ok || err != nil || !addr.Is6() || strings.ContainsAny(literal, ".%") {
			return errors.New("what is in brackets must be an IPv6 address without zone")
		}
		return nil
	}
	for label := range strings.SplitSeq(name, ".") {
		if err := validLabel(label, extra); err != nil {
			return err
		}
	}
	return nil
}

// validLabel follows domain-component of the reference grammar (github.com/distribution/reference).
func validLabel(label, extra string) error {
	if label == "" {
		return errors.New("it has an empty part between dots")
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("a part begins or ends with a dash")
	}
	for _, r := range label {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
		if !ok && !strings.ContainsRune(extra, r) {
			return fmt.Errorf("it has the character %q; a registry host has letters, digits, dots, dashes and a port",
				r)
		}
	}
	return nil
}

// ValidMirrorURL checks the URL of a mirror: scheme and host, nothing else. Errors do not quote it, as it may hold a
// password where none belongs.
func ValidMirrorURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("its URL does not parse; write it as https://host or https://host:port")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("its URL must begin with https:// or http://; without, containerd misreads it")
	case u.Opaque != "" || u.Host == "":
		return errors.New("its URL has no host; write it as https://host or https://host:port")
	case u.User != nil:
		return errors.New("its URL holds a login; containerd would not use it, give credentials instead")
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return errors.New("its URL has more than scheme and host; what comes below /v2 belongs in path")
	case raw != u.Scheme+"://"+u.Host:
		return errors.New("its URL is not in its plain form; write it as https://host or https://host:port")
	}
	if err := validAuthority(u.Host, "_"); err != nil {
		return fmt.Errorf("its URL's host: %w", err)
	}
	return nil
}

// ValidPath checks the path of a mirror: repository components without /v2 and without slashes at the ends.
func ValidPath(p string) error {
	if p == "" {
		return nil
	}
	if p == "v2" || strings.HasPrefix(p, "v2/") || strings.HasPrefix(p, "/v2") {
		return fmt.Errorf("path %q begins with v2; leave that out, hotplate writes /v2/<path> "+
			"and a second /v2 makes every pull fail", shorten(p))
	}
	if len(p) > maxName {
		return fmt.Errorf("path %q is longer than %d bytes", shorten(p), maxName)
	}
	for part := range strings.SplitSeq(p, "/") {
		if !validComponent(part) {
			return fmt.Errorf("path %q: %q is not a path component; they are lower-case letters and digits, with "+
				"single . _ or dashes between them", shorten(p), shorten(part))
		}
	}
	return nil
}

// validComponent follows path-component of the reference grammar: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(s string) bool {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && alnum(s[i]) {
			i++
		}
		if i == start {
			return false
		}
		if i == len(s) {
			return true
		}
		sep := i
		for i < len(s) && !alnum(s[i]) {
			i++
		}
		switch gap := s[sep:i]; {
		case gap == ".", gap == "_", gap == "__", strings.Trim(gap, "-") == "":
		default:
			return false
		}
	}
	return false
}

// shorten keeps an error readable whatever it quotes.
func shorten(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// isLocalhost is IsLocalhost of core/remotes/docker/resolver.go, 2.4.2.
func isLocalhost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
