package hostconfig

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// LintHostsTOML returns what containerd v would silently do with a hosts.toml. A file that it rejects as a whole gives
// one warning.
func LintHostsTOML(data []byte, v Version) []Warning {
	_, list, err := ParseHosts(data, v)
	if err != nil {
		ws := warnings{}
		ws.add(Severe, "rejected", "", "%v; pulls then go to the registry itself, without a word to the client", err)
		return ws.list
	}
	return list
}

// hostsLinter looks at a file that containerd accepts.
type hostsLinter struct {
	warnings
	v    Version
	file HostsFile
	doc  map[string]any // the same file without types
}

func lintHosts(data []byte, f HostsFile, v Version) []Warning {
	l := hostsLinter{v: v, file: f}
	// It decoded into a struct already; should it not decode into a map, there is nothing to add.
	if err := toml.Unmarshal(data, &l.doc); err != nil {
		return nil
	}
	l.tables(data)
	l.unknownKeys("", l.doc)
	for i, h := range f.Hosts {
		where, table := "server", l.doc
		if i < len(f.Hosts)-1 {
			where = fmt.Sprintf("host %q", redactURL(h.URL))
			hosts, _ := l.doc["host"].(map[string]any)
			table, _ = hosts[h.URL].(map[string]any)
		}
		if h.URL == "" && i == len(f.Hosts)-1 {
			l.noServer()
		} else {
			l.url(where, h)
			l.capabilities(where, h)
		}
		l.tls(where, h)
		l.versions(where, h, table)
	}
	l.wholeFile()
	return l.list
}

// tables looks at the forms in which hosts are written.
func (l *hostsLinter) tables(data []byte) {
	scan := scanHosts(data)
	for _, name := range scan.all {
		if !slices.Contains(scan.headers, name) {
			l.addVersions(l.v, dropsInlineHosts, Severe, "inline-host", fmt.Sprintf("host %q", redactURL(name)),
				"containerd 2.0 and later drop this host silently; write it with a [host.\"URL\"] table header")
		}
	}
	if len(scan.inline) > 1 && !l.v.certainly(dropsInlineHosts) {
		l.add(Warn, "inline-order", "", "containerd 1.x asks hosts that are inline tables in no fixed order; write "+
			"them with [host.\"URL\"] table headers")
	}
	if len(scan.all) == 0 {
		l.addVersions(l.v, needsHostTable, Severe, "no-host-table", "",
			"containerd before 1.7.32 rejects a file without a [host.\"URL\"] table and goes to upstream")
	}
	if slices.ContainsFunc(scan.headers, hasBracket) {
		l.addVersions(l.v, rejectsBracketTables, Severe, "bracket-table", "",
			"containerd 1.x rejects the whole file because of the brackets in a table header, and goes to upstream; "+
				"use a name instead of the IPv6 address")
	}
	seen := map[string]bool{}
	for _, name := range scan.headers {
		if seen[name] {
			l.addVersions(l.v, dropsInlineHosts, Warn, "host-twice", fmt.Sprintf("host %q", redactURL(name)),
				"containerd 2.0 and later ask this host twice; write its [….header] table right after its own table")
		}
		seen[name] = true
	}
}

func (l *hostsLinter) unknownKeys(where string, table map[string]any) {
	known := []string{"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}
	if where == "" {
		known = append(known, "server", "host")
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		name := strings.ToLower(key) // the library ignores case
		switch {
		case slices.Contains(known, name):
		case name == "server" || name == "host":
			l.add(Severe, "misplaced-key", where, "%s belongs before the first table; here containerd ignores it", name)
		default:
			l.add(Warn, "unknown-key", where, "containerd ignores the key %q; it knows %s",
				shorten(redactURL(key)), strings.Join(known, ", "))
		}
	}
	if hosts, ok := table["host"].(map[string]any); ok && where == "" {
		for _, name := range slices.Sorted(maps.Keys(hosts)) {
			if t, ok := hosts[name].(map[string]any); ok {
				l.unknownKeys(fmt.Sprintf("host %q", redactURL(name)), t)
			}
		}
	}
}

// noServer looks at a root that stands for the registry itself.
func (l *hostsLinter) noServer() {
	l.add(Info, "no-server", "server", "there is no `server`, so containerd asks the registry itself after the hosts "+
		"above; to keep it from that, name the last mirror as `server`")
	for _, key := range []string{"capabilities", "override_path"} {
		if _, ok := l.doc[key]; ok {
			l.add(Warn, "ignored-without-server", "server", "%s at the top has no effect without `server`", key)
		}
	}
}

func (l *hostsLinter) url(where string, h HostEntry) {
	u, err := url.Parse(h.URL)
	switch {
	case h.Host == "" || h.Scheme != "http" && h.Scheme != "https":
		l.add(Severe, "bad-url", where, "containerd reads this as scheme %q and host %q; write https:// or http:// "+
			"and a host", shorten(h.Scheme), shorten(h.Host))
		return
	case !strings.HasPrefix(h.URL, "http"):
		l.add(Warn, "no-scheme", where, "containerd takes https:// here; write the scheme, because a host whose name "+
			"begins with http is misread without")
	case err == nil && u.User != nil:
		l.add(Warn, "login-in-url", where, "containerd does not use the login in a URL, and writes it to its log; "+
			"remove it")
	}
	segments := strings.Split(strings.Trim(h.Path, "/"), "/")
	first := slices.Index(segments, "v2")
	switch {
	case first >= 0 && first < len(segments)-1 && segments[len(segments)-1] == "v2" && !h.OverridePath:
		l.add(Severe, "no-override-path", where, "containerd asks for %s/…, which no registry serves; write "+
			"override_path = true", h.Path)
	case first >= 0 && slices.Contains(segments[first+1:], "v2"):
		l.add(Severe, "double-v2", where, "there are two /v2 in %s; keep one", h.Path)
	case h.OverridePath && first < 0:
		l.add(Warn, "no-v2", where, "with override_path and without /v2, containerd asks for %s/NAME/manifests/…; "+
			"most registries want /v2%s", h.Path, h.Path)
	case !h.OverridePath && len(segments) > 1:
		l.add(Info, "path-before-v2", where, "containerd asks for %s/…; for a project of Harbor write "+
			"/v2/PROJECT and override_path = true", h.Path)
	}
}

func (l *hostsLinter) capabilities(where string, h HostEntry) {
	pull, resolve := slices.Contains(h.Capabilities, CapabilityPull), slices.Contains(h.Capabilities, CapabilityResolve)
	switch {
	case !pull:
		l.add(Warn, "blobs-despite-capabilities", where, "without pull, containerd asks this host for no tag, but "+
			"still for blobs and for manifests by digest: Fetch ignores capabilities; to keep it away, leave it out")
	case !resolve:
		l.add(Info, "no-tags", where, "without resolve, containerd asks this host only for digests, not for tags")
	}
}

func (l *hostsLinter) tls(where string, h HostEntry) {
	if h.SkipVerify != nil && *h.SkipVerify {
		l.add(Warn, "skip-verify", where, "any certificate is accepted; whoever answers for this host decides what "+
			"the node runs; give a `ca` instead")
	}
	if triesHTTPS(h, l.v) {
		reason := "of its TLS options"
		if !h.hasTLSOptions() {
			reason = "containerd 2.0.7 to 2.0.x take dial_timeout for a TLS option"
		}
		l.add(Info, "http-with-tls", where, "it is http://, but because %s containerd tries HTTPS first", reason)
	}
}

func (h HostEntry) hasTLSOptions() bool { return h.CA != nil || h.Client != nil || h.SkipVerify != nil }

// triesHTTPS follows the end of ConfigureHosts.
func triesHTTPS(h HostEntry, v Version) bool {
	_, port, _ := net.SplitHostPort(h.Host)
	explicit := h.hasTLSOptions() || h.DialTimeout != nil && v.certainly(dialTimeoutTriesHTTPS)
	if v.certainly(httpStaysHTTP16) || v.certainly(httpStaysHTTP17) {
		return false
	}
	return h.Scheme == "http" && explicit && port != "80" && (port != "" || !v.certainly(portlessHTTPStaysHTTP))
}

// versions looks at what only some versions do.
func (l *hostsLinter) versions(where string, h HostEntry, table map[string]any) {
	if _, ok := table["dial_timeout"]; ok && !l.v.possibly(honoursDialTimeout) {
		l.add(Info, "no-dial-timeout", where, "containerd %s ignores dial_timeout; a host that is gone costs 30 s on "+
			"each request", l.v)
	}
	if list, ok := table["capabilities"].([]any); ok && l.v.IsZero() {
		for _, c := range list {
			if s, _ := c.(string); strings.EqualFold(s, string(CapabilityReferrers)) {
				l.add(Info, "referrers", where, "containerd before 2.2 rejects the whole file because of the "+
					"capability referrers, and goes to upstream")
			}
		}
	}
	for _, name := range h.HeaderNames() {
		if strings.EqualFold(name, "Authorization") {
			l.add(Info, "authorization-header", where, "every pod of this node can pull with the login in this header")
			l.addVersions(l.v, headerToTokenServer, Info, "header-to-token-server", where,
				"containerd 2.1 and later also send the header to the token server that this host names")
		}
	}
}

// wholeFile looks at how the hosts stand to each other.
func (l *hostsLinter) wholeFile() {
	last := len(l.file.Hosts) - 1
	root := l.file.Hosts[last]
	resolves := func(h HostEntry) bool {
		return slices.Contains(h.Capabilities, CapabilityPull) && slices.Contains(h.Capabilities, CapabilityResolve)
	}
	if root.URL != "" && !slices.ContainsFunc(l.file.Hosts, resolves) {
		l.add(Severe, "no-resolve-host", "", "no host has both pull and resolve, so no tag can be pulled")
	}
	for _, h := range l.file.Hosts[:last] {
		if root.Host == "" || h.Host != root.Host || h.Scheme != root.Scheme || h.Path != root.Path {
			continue
		}
		if !slices.Equal(h.CA, root.CA) || !slices.Equal(h.Client, root.Client) {
			l.add(Warn, "server-without-tls", "server", "it is the same host as a [host] table, but without that "+
				"table's ca and client, which do not carry over; repeat them at the top of the file")
		}
	}
	if last > 0 {
		l.addVersions(l.v, hangsWithoutFallback, Info, "hanging-mirror", "",
			"before containerd 2.3.4, a mirror that accepts connections and never answers blocks pulls; "+
				"no other host is tried")
	}
}
