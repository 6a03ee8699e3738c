package hostconfig

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// LintRegistries returns what is allowed in regs, and yet most likely not meant or worth knowing with containerd v.
// What Render refuses is not repeated.
func LintRegistries(regs []Registry, v Version) []Warning {
	l := registryLinter{v: v}
	for _, reg := range regs {
		l.registry(reg)
	}
	return l.list
}

type registryLinter struct {
	warnings
	v Version
}

func (l *registryLinter) registry(reg Registry) {
	where := fmt.Sprintf("registry %q", shorten(reg.Host))
	l.host(where, reg.Host)
	for i, m := range reg.Mirrors {
		l.mirror(fmt.Sprintf("%s: mirror %d", where, i+1), reg, m)
	}
	if reg.TLS.SkipVerify && reg.Upstream != Deny {
		l.add(Warn, "skip-verify", where, "any certificate is accepted for the registry itself; give its CA instead")
	}
	if !reg.TLS.isZero() && reg.Upstream == Deny {
		l.add(Warn, "unused-tls", where, "tls of the registry itself has no effect with upstream: Deny; it is never "+
			"asked")
	}
	if reg.Upstream == Allow && len(reg.Mirrors) > 0 {
		l.addVersions(l.v, hangsWithoutFallback, Info, "hanging-mirror", where,
			"before containerd 2.3.4, a mirror that accepts connections and never answers blocks pulls, although "+
				"upstream is allowed")
	}
	if len(reg.Mirrors) > 0 {
		l.add(Info, "credentials-offered", where, "containerd offers pods' pull secrets to every mirror that asks for "+
			"a login; list only mirrors that may see them")
	}
}

// host looks for hosts that no image reference leads to (github.com/distribution/reference, splitDockerDomain).
func (l *registryLinter) host(where, host string) {
	name, port, _ := splitPort(host)
	switch {
	case host == DefaultHost:
	case host == "index.docker.io":
		l.add(Warn, "unreachable-host", where, "the kubelet turns index.docker.io to docker.io, so this entry is "+
			"never used; write docker.io")
	case host == "registry-1.docker.io":
		l.add(Warn, "unreachable-host", where, "images of Docker Hub are looked up as docker.io; this entry is used "+
			"only for images that are written with registry-1.docker.io")
	case port == "" && !strings.ContainsAny(name, ".:") && name != "localhost" && name == strings.ToLower(name):
		l.add(Warn, "unreachable-host", where, "%s/IMAGE means docker.io/%s/IMAGE, so this entry is never used; image "+
			"references need a dot or a port in the host", name, name)
	case name != strings.ToLower(name):
		l.add(Warn, "upper-case-host", where, "containerd compares hosts letter by letter; this entry is used only "+
			"for images that are written with the same capitals")
	}
}

func (l *registryLinter) mirror(where string, reg Registry, m Mirror) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return // Render says so
	}
	if isUpstream(reg.Host, ResolvedHost{Host: u.Host, Scheme: u.Scheme}) {
		l.add(Warn, "mirror-is-upstream", where, "this is the registry itself, so it is no mirror; put its settings "+
			"into tls of the registry")
	}
	l.mirrorTLS(where, m, u)
	l.mirrorCapabilities(where, m)
	l.mirrorHeader(where, m.Header)
	if m.DialTimeout > 30*time.Second {
		l.add(Warn, "long-dial-timeout", where, "with a dial timeout of %s this mirror costs more when it is gone "+
			"than with containerd's own 30s", m.DialTimeout)
	}
	if !l.v.possibly(honoursDialTimeout) {
		l.add(Info, "no-dial-timeout", where, "containerd %s ignores dial_timeout; a mirror that is gone costs 30 s "+
			"on each request", l.v)
	}
}

func (l *registryLinter) mirrorTLS(where string, m Mirror, u *url.URL) {
	entry := HostEntry{Scheme: u.Scheme, Host: u.Host}
	if !m.TLS.isZero() {
		entry.CA = []string{}
	}
	switch {
	case u.Scheme == "http" && triesHTTPS(entry, l.v):
		l.add(Warn, "http-with-tls", where, "it is http:// with TLS settings, so containerd tries HTTPS first and "+
			"then plain HTTP; write https://, or leave the TLS settings out")
	case u.Scheme == "http" && !isLocalhost(u.Host):
		l.add(Warn, "plain-http", where, "it is http://, so whoever sits between reads logins and images, and can "+
			"change what a tag means")
	}
	if m.TLS.SkipVerify {
		l.add(Warn, "skip-verify", where, "any certificate is accepted; whoever answers for this mirror decides what "+
			"the node runs; give its CA instead")
	}
}

func (l *registryLinter) mirrorCapabilities(where string, m Mirror) {
	if len(m.Capabilities) == 0 {
		return
	}
	if !slices.Contains(m.Capabilities, CapabilityPull) {
		l.add(Warn, "blobs-despite-capabilities", where, "without pull, containerd asks this mirror for no tag, but "+
			"still for blobs and for manifests by digest; to keep it away, leave it out")
	} else if !slices.Contains(m.Capabilities, CapabilityResolve) {
		l.add(Info, "no-tags", where, "without resolve, containerd asks this mirror only for digests, not for tags")
	}
	if slices.Contains(m.Capabilities, CapabilityReferrers) && !l.v.certainly(knowsReferrers) {
		l.add(Info, "referrers", where, "the capability referrers is left out for containerd %s; it needs 2.2", l.v)
	}
}

func (l *registryLinter) mirrorHeader(where string, h http.Header) {
	for name := range h {
		if http.CanonicalHeaderKey(name) != "Authorization" {
			continue
		}
		l.add(Warn, "authorization-header", where, "every pod of the node can pull with the login in this header")
		l.addVersions(l.v, headerToTokenServer, Info, "header-to-token-server", where,
			"containerd 2.1 and later also send the header to the token server that this mirror names")
		return
	}
}
