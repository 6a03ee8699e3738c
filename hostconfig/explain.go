package hostconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"
)

// Resolution is what containerd does for the images of one registry host.
type Resolution struct {
	// Host is the registry host, Version the containerd version that was assumed.
	Host    string
	Version Version
	// Dir is the directory that containerd uses, by its name in the hosts directory; "" when there is none.
	Dir string
	// Shadowed are directories that exist for this host, and are not used.
	Shadowed []string
	// Rejected says why containerd ignores the directory's hosts.toml; empty when it does not.
	Rejected string
	// Failure says why every pull fails before any host is asked; empty when they do not.
	Failure string
	// Hosts are asked in this order.
	Hosts []ResolvedHost
	// Upstream says whether the registry itself is asked, UpstreamWhen when and why, as a sentence without dot.
	Upstream     UpstreamUse
	UpstreamWhen string
	Warnings     []Warning
}

// UpstreamUse says whether containerd asks the registry that the image names.
type UpstreamUse string

// The values of UpstreamUse.
const (
	UpstreamNever UpstreamUse = "never"
	// UpstreamLast means after at least one other host.
	UpstreamLast   UpstreamUse = "last"
	UpstreamAlways UpstreamUse = "always"
)

// ResolvedHost is one host as containerd asks it.
type ResolvedHost struct {
	// URL is Scheme://Host/Path; containerd appends /NAME/manifests/TAG and the like.
	URL                string
	Scheme, Host, Path string
	// HTTPFallback is set when HTTP is used if the host does not speak HTTPS.
	HTTPFallback bool
	Capabilities []Capability
	// CA and Client are paths in the hosts directory, or absolute ones outside of it.
	CA         []string
	Client     [][2]string
	SkipVerify bool
	// Headers are names; of Authorization the scheme is shown too. Values are never.
	Headers []string
	// DialTimeout bounds one TCP connect.
	DialTimeout time.Duration
	// Upstream is set for the registry that the image names.
	Upstream bool

	entry HostEntry
}

// containerdDialTimeout is what containerd uses where no dial_timeout counts (DefaultHTTPTransport of
// core/remotes/docker/resolver.go, 2.4.2).
const containerdDialTimeout = 30 * time.Second

// Explain returns what containerd v does for the images of a registry host when fsys is its hosts directory. It
// follows symlinks as containerd does, so pass os.DirFS. The error is for a host that no image can name; what is wrong
// with the directory is part of the Resolution. The zero v stands for the newest version that hotplate knows.
func Explain(fsys fs.FS, host string, v Version) (Resolution, error) {
	return ExplainAt(fsys, "", host, v)
}

// ExplainAt is Explain for a hosts directory that containerd knows by the absolute path root. Absolute paths below root
// in a hosts.toml are then looked at too; what lies elsewhere is not.
func ExplainAt(fsys fs.FS, root, host string, v Version) (Resolution, error) {
	if err := ValidHost(host); err != nil {
		return Resolution{}, fmt.Errorf("explain: %w", err)
	}
	ex := explainer{fsys: fsys, root: strings.TrimSuffix(root, "/"), res: Resolution{Host: host, Version: v}}
	entries, err := ex.load()
	if err != nil {
		ex.fail(err)
		return ex.res, nil
	}
	for _, e := range withDefaultHost(entries, host, v) {
		rh, err := ex.resolve(e)
		if err != nil && ex.res.Failure == "" {
			ex.fail(err)
		}
		ex.res.Hosts = append(ex.res.Hosts, rh)
	}
	ex.upstream()
	return ex.res, nil
}

type explainer struct {
	fsys fs.FS
	root string
	res  Resolution
}

func (ex *explainer) warn(sev Severity, code, where, format string, args ...any) {
	ws := warnings{list: ex.res.Warnings}
	ws.add(sev, code, where, format, args...)
	ex.res.Warnings = ws.list
}

func (ex *explainer) fail(err error) {
	ex.res.Failure = err.Error()
	ex.res.Upstream = UpstreamNever
	ex.res.UpstreamWhen = "never: every pull fails before a host is asked, because " + err.Error()
}

// load follows HostDirFromRoot and loadHostDir.
func (ex *explainer) load() ([]HostEntry, error) {
	if err := ex.findDir(); err != nil {
		return nil, err
	}
	dir := ex.res.Dir
	if dir == "" {
		return nil, nil
	}
	name := dir + "/" + HostsTOML
	data, err := readFS(ex.fsys, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) == 0 {
		ex.noHostsFile(err == nil)
		return ex.certFiles()
	}
	f, list, err := ParseHosts(data, ex.res.Version)
	if err != nil {
		ex.res.Rejected = err.Error()
		ex.warn(Severe, "rejected", name, "%v; containerd logs this and uses the directory as if the file were not "+
			"there", err)
		return ex.certFiles()
	}
	ex.res.Warnings = append(ex.res.Warnings, in(name, list)...)
	ex.fallbackNames()
	ex.exposedHeader(name, f)
	return f.Hosts, nil
}

// findDir follows HostDirFromRoot: the first name that exists is used, whatever it is.
func (ex *explainer) findDir() error {
	for _, dir := range LookupDirs(ex.res.Host) {
		info, err := fs.Stat(ex.fsys, dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil && ex.res.Dir == "":
			return fmt.Errorf("look at %s: %w", dir, err)
		case err != nil:
		case ex.res.Dir == "" && !info.IsDir():
			return fmt.Errorf("read %s/%s: %s is not a directory", dir, HostsTOML, dir)
		case ex.res.Dir == "":
			ex.res.Dir = dir
		case dir != DefaultHost:
			ex.res.Shadowed = append(ex.res.Shadowed, dir)
			ex.warn(Warn, "shadowed", dir, "containerd uses %s for this registry and never looks here; remove one",
				ex.res.Dir)
		}
	}
	return nil
}

// noHostsFile warns of a directory without hosts.toml, or with an empty one.
func (ex *explainer) noHostsFile(empty bool) {
	dir := ex.res.Dir
	if empty {
		ex.res.Rejected = "it is empty"
		ex.warn(Severe, "empty-file", dir+"/"+HostsTOML, "containerd goes to upstream, and logs nothing")
		return
	}
	if _, err := fs.Stat(ex.fsys, DefaultHost); err == nil && dir != DefaultHost {
		ex.warn(Severe, "hides-default", dir, "the directory has no %s, and yet containerd does not use %s for this "+
			"registry; remove the directory", HostsTOML, DefaultHost)
		return
	}
	ex.warn(Warn, "no-hosts-file", dir, "the directory has no %s, so containerd goes to upstream", HostsTOML)
}

// certFiles follows loadCertFiles: Docker's layout, which is used when there is no usable hosts.toml.
func (ex *explainer) certFiles() ([]HostEntry, error) {
	dir := ex.res.Dir
	list, err := fs.ReadDir(ex.fsys, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	var h HostEntry
	for _, d := range list {
		if d.IsDir() {
			continue
		}
		if strings.HasSuffix(d.Name(), ".crt") {
			h.CA = append(h.CA, d.Name())
		}
		if base, ok := strings.CutSuffix(d.Name(), ".cert"); ok {
			pair := [2]string{d.Name(), ""}
			if _, err := fs.Stat(ex.fsys, dir+"/"+base+".key"); err == nil {
				pair[1] = base + ".key"
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("look at %s/%s.key: %w", dir, base, err)
			}
			h.Client = append(h.Client, pair)
		}
	}
	if h.Client != nil && ex.res.Rejected != "" {
		ex.warn(Severe, "client-cert-to-upstream", dir, "while %s is rejected, containerd presents the client "+
			"certificates of this directory (*.cert) to the registry itself; call them .pem", HostsTOML)
	}
	return []HostEntry{h}, nil
}

// fallbackNames warns of certificate files that a broken hosts.toml would hand to upstream.
func (ex *explainer) fallbackNames() {
	list, err := fs.ReadDir(ex.fsys, ex.res.Dir)
	if err != nil {
		return
	}
	for _, d := range list {
		for _, suffix := range []string{".crt", ".cert", ".key"} {
			if strings.HasSuffix(d.Name(), suffix) && !d.IsDir() {
				ex.warn(Info, "fallback-name", ex.res.Dir+"/"+d.Name(), "if %s ever fails to parse, containerd uses "+
					"this file towards the registry itself; call it .pem", HostsTOML)
			}
		}
	}
}

// exposedHeader warns of a login that other users of the node can read.
func (ex *explainer) exposedHeader(name string, f HostsFile) {
	info, err := fs.Stat(ex.fsys, name)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return
	}
	for _, h := range f.Hosts {
		for _, header := range h.HeaderNames() {
			if strings.EqualFold(header, "Authorization") {
				ex.warn(Warn, "readable-secret", name, "it holds a login and has mode %#o; chmod 0600",
					info.Mode().Perm())
				return
			}
		}
	}
}

// withDefaultHost fills in the registry itself, as the start of ConfigureHosts does.
func withDefaultHost(entries []HostEntry, host string, v Version) []HostEntry {
	if entries == nil {
		entries = []HostEntry{{}}
	}
	last := &entries[len(entries)-1]
	if last.Host != "" {
		return entries
	}
	last.Scheme, last.Host, last.Path = "https", host, "/v2"
	last.Capabilities = allCapabilities(v)
	switch {
	case host == "docker.io":
		last.Host = "registry-1.docker.io"
	case isLocalhost(host):
		_, port, _ := net.SplitHostPort(host)
		if port != "" && port != "443" {
			last.Scheme = "http"
		}
		if port != "80" {
			yes := true
			last.SkipVerify = &yes
		}
	}
	return entries
}

// upstream concludes whether and when the registry itself is asked.
func (ex *explainer) upstream() {
	res := &ex.res
	first, mirrors := -1, false
	for i := range res.Hosts {
		h := &res.Hosts[i]
		h.Upstream = isUpstream(res.Host, *h)
		mirrors = mirrors || !h.Upstream
		if h.Upstream && first < 0 {
			first = i
		}
	}
	if mirrors {
		ex.warn(Info, "credentials-offered", "", "a pull secret of %s is offered to every mirror that asks for a "+
			"login; list only mirrors that may see it", res.Host)
	}
	if res.Failure != "" {
		return
	}
	switch {
	case first < 0:
		res.Upstream, res.UpstreamWhen = UpstreamNever, "never: the last mirror stands as `server`"
	case res.Rejected != "":
		res.Upstream = UpstreamAlways
		res.UpstreamWhen = fmt.Sprintf("always: %s/%s is not used: %s", res.Dir, HostsTOML, res.Rejected)
	case res.Dir == "":
		res.Upstream, res.UpstreamWhen = UpstreamAlways, "always: there is no directory for this registry"
	case first == 0:
		res.Upstream, res.UpstreamWhen = UpstreamAlways, "always: no mirror comes before it"
	default:
		res.Upstream, res.UpstreamWhen = UpstreamLast, "when every mirror above fails or lacks the image"
	}
}

// isUpstream reports whether h is the registry that images of host name.
func isUpstream(host string, h ResolvedHost) bool {
	if host == "docker.io" {
		name, port, _ := splitPort(strings.ToLower(h.Host))
		return (port == "" || port == "443") && (name == "registry-1.docker.io" || name == "docker.io" ||
			name == "index.docker.io")
	}
	return authority(host, h.Scheme) == authority(h.Host, h.Scheme)
}

// authority writes host with its port, so that equal ones compare equal.
func authority(host, scheme string) string {
	host = strings.ToLower(host)
	name, port, _ := splitPort(host)
	if port == "" {
		port = map[string]string{"http": "80"}[scheme]
	}
	if port == "" {
		port = "443"
	}
	return name + ":" + port
}
