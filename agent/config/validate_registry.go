package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// DefaultHost is the registry host that stands for every host without an entry of its own.
const DefaultHost = "_default"

const maxDialTimeout = Duration(5 * time.Minute)

func (v *validator) registry(at string, r Registry) {
	if r.Host != "" {
		if wrong := hostFault(r.Host); wrong != "" {
			v.fault(join(at, "host"), "%s", wrong)
		}
	}
	v.upstream(at, r)
	v.tls(join(at, "tls"), r.TLS)
	if r.Credentials != "" {
		path := join(at, "credentials")
		v.refer(v.credentials, path, r.Credentials)
		if login := v.logins[r.Credentials]; r.Host == DefaultHost && login.UsernameFile != "" {
			v.fault(path, "would be sent to every registry; name a login with dockerConfigFile, which says for whom "+
				"each login is")
		}
	}
	places, logins := map[string]string{}, map[string]string{}
	if r.Upstream == Allow {
		logins[canonicalHost(r.Host)] = r.Credentials
	}
	for i, m := range r.Mirrors {
		mirrorAt := index(join(at, "mirrors"), i)
		v.mirror(mirrorAt, m)
		if m.URL == "" {
			continue
		}
		place := m.URL + "/" + m.Path
		if first, twice := places[place]; twice {
			v.fault(mirrorAt, "is the same URL and path as %s; remove one", first)
		} else {
			places[place] = mirrorAt
		}
		v.sameLogin(join(mirrorAt, "credentials"), m, logins)
	}
}

// hostFault says why no image reference can have this host, or nothing. The rule is the one of the references
// themselves: the parser that containerd and the kubelet use must find this very host in one.
func hostFault(host string) string {
	const want = "write a host as image references have it, such as docker.io, harbor.example.com or [fd00::1]:5000, " +
		"or " + DefaultHost
	if host == DefaultHost {
		return ""
	}
	ref, err := reference.ParseNormalizedNamed(host + "/repository/name")
	if err != nil {
		return fmt.Sprintf("%s is not a registry host; %s", quote(host), want)
	}
	switch domain := reference.Domain(ref); {
	case domain == host:
	case strings.Contains(host, "/"):
		return fmt.Sprintf("%s is more than a host; %s", quote(host), want)
	case host == "index.docker.io":
		return "is index.docker.io, and containerd never looks that up; write docker.io"
	default:
		return fmt.Sprintf("%s has neither dot nor port, so that image references take it for a part of docker.io; %s",
			quote(host), want)
	}
	if !validAuthority(host) {
		return fmt.Sprintf("%s is not a registry host: its address or port does not exist; %s", quote(host), want)
	}
	return ""
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// validAuthority reports whether s is host, host:port, [v6] or [v6]:port.
func validAuthority(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return closed && err == nil && addr.Is6() && addr.Zone() == ""
	}
	return hostName.MatchString(host)
}

func (v *validator) upstream(at string, r Registry) {
	path, mirrors := join(at, "upstream"), len(r.Mirrors) > 0
	known := !v.walked.spoiled(join(at, "mirrors"))
	switch r.Upstream {
	case "":
		if mirrors {
			v.fault(path, "is missing; write Allow, and images come from the registry itself when no mirror answers, "+
				"or Deny, and they never do")
		}
	case Allow:
		if known && !mirrors && !hasTLS(r.TLS) && !v.anySpoiled(at, "tls") {
			v.fault(at, "has neither mirrors nor tls, so that it says nothing; write one of them or remove the entry")
		}
	case Deny:
		if known && !mirrors {
			v.fault(path, "is Deny without a mirror, so that nothing could be pulled; write mirrors, or Allow")
		}
		if hasTLS(r.TLS) {
			v.fault(join(at, "tls"), "is for the registry itself, which upstream: Deny never asks; remove it, or move "+
				"it to a mirror")
		}
		if r.Credentials != "" {
			v.fault(join(at, "credentials"), "is for the registry itself, which upstream: Deny never asks; remove it, "+
				"or move it to a mirror")
		}
	default:
		v.fault(path, "is %s; write Allow or Deny", quote(string(r.Upstream)))
	}
}

func hasTLS(t TLS) bool { return len(t.CA) > 0 || t.ClientCert != "" || t.SkipVerify }

func (v *validator) tls(at string, t TLS) {
	seen := map[string]bool{}
	for i, name := range t.CA {
		path := index(join(at, "ca"), i)
		if seen[name] {
			v.fault(path, "is %s, which the list has already; remove one", quote(name))
			continue
		}
		seen[name] = true
		v.refer(v.bundles, path, name)
	}
	if t.ClientCert != "" {
		v.refer(v.keyPairs, join(at, "clientCert"), t.ClientCert)
	}
}

func (v *validator) mirror(at string, m Mirror) {
	if m.URL != "" {
		if wrong := urlFault(m.URL); wrong != "" {
			v.fault(join(at, "url"), "%s", wrong)
		}
	}
	if wrong := pathFault(m.Path); wrong != "" {
		v.fault(join(at, "path"), "%s", wrong)
	}
	v.capabilities(join(at, "capabilities"), m.Capabilities)
	v.tls(at, m.TLS)
	if strings.HasPrefix(m.URL, "http://") && hasTLS(m.TLS) {
		// containerd core/remotes/docker/config/hosts.go, ConfigureHosts, 1.6 to 2.4.
		v.fault(join(at, "url"), "is an http URL with TLS settings, and containerd would try https first; write "+
			"https://, or remove ca, clientCert and skipVerify")
	}
	v.headers(at, m)
	if m.Credentials != "" {
		v.refer(v.credentials, join(at, "credentials"), m.Credentials)
	} else if m.ExposeToNode && !v.anySpoiled(at, "credentials") {
		v.fault(join(at, "exposeToNode"), "is true without credentials; name the login to expose, or remove it")
	}
	if m.DialTimeout <= 0 || m.DialTimeout > maxDialTimeout {
		v.fault(join(at, "dialTimeout"), "is %s; write a time span of at most 5m", m.DialTimeout)
	}
}

// urlFault says what is wrong with a mirror's URL, or nothing. It does not repeat the URL where it may hold a password.
func urlFault(s string) string {
	const want = "write https://host or https://host:port"
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "is not a URL; " + want
	case u.User != nil || strings.ContainsRune(s, '@'):
		return "holds a user or password; remove it, and name a login in credentials"
	case !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://"):
		return fmt.Sprintf("is %s, without http:// or https:// at the front; %s", quote(s), want)
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.ContainsRune(s, '#'):
		return fmt.Sprintf("is %s, more than scheme, host and port; %s, and what follows /v2 in path", quote(s), want)
	case !validAuthority(u.Host):
		return fmt.Sprintf("is %s, whose host or port is not valid; %s", quote(s), want)
	}
	return ""
}

var pathSegment = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._~-]*[A-Za-z0-9])?$`)

func pathFault(path string) string {
	if path == "" {
		return ""
	}
	trimmed := strings.Trim(path, "/")
	if trimmed == "v2" || strings.HasPrefix(trimmed, "v2/") {
		return fmt.Sprintf("is %s, and hotplate writes the /v2 itself; leave that out", quote(path))
	}
	if trimmed != path && trimmed != "" {
		return fmt.Sprintf("is %s; write %s, without a slash at either end", quote(path), trimmed)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if !pathSegment.MatchString(segment) {
			return fmt.Sprintf("is %s; write names of letters, digits, dots, dashes and underscores with single slashes "+
				"between them, such as a Harbor project", quote(path))
		}
	}
	return ""
}

func (v *validator) capabilities(at string, capabilities []Capability) {
	known := []Capability{Pull, Resolve, Push, Referrers}
	for i, c := range capabilities {
		switch {
		case !slices.Contains(known, c):
			v.fault(index(at, i), "is %s; write pull, resolve, push or referrers", quote(string(c)))
		case slices.Contains(capabilities[:i], c):
			v.fault(index(at, i), "is %s, which the list has already; remove one", c)
		}
	}
}

// headers never shows a value: it may be a token.
func (v *validator) headers(at string, m Mirror) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		path := join(join(at, "headers"), name)
		if first, twice := seen[strings.ToLower(name)]; twice {
			v.fault(path, "is the same header as %s; write all values in one list", quote(first))
		}
		seen[strings.ToLower(name)] = name
		if !headerName.MatchString(name) {
			v.fault(path, "is not a header's name; write letters, digits and dashes")
		}
		if len(m.Headers[name]) == 0 {
			v.fault(path, "has no value; write a list of values, or remove it")
		}
		if m.ExposeToNode && strings.EqualFold(name, "Authorization") {
			v.fault(path, "stands beside exposeToNode, which writes an Authorization header itself; remove one of them")
		}
		for i, value := range m.Headers[name] {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				v.fault(index(path, i), "holds a line break or another control character; remove it")
			}
		}
	}
}

// headerName is a token of RFC 9110, section 5.6.2.
var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// sameLogin refuses two logins for one host, because logins are looked up by host.
func (v *validator) sameLogin(path string, m Mirror, logins map[string]string) {
	u, err := url.Parse(m.URL)
	if err != nil || u.Host == "" {
		return
	}
	host := canonicalHost(u.Host)
	if first, ok := logins[host]; ok && first != m.Credentials {
		v.fault(path, "differs from what this registry uses elsewhere for %s, and logins are looked up by host; use one "+
			"login for it", quote(u.Host))
		return
	}
	logins[host] = m.Credentials
}
