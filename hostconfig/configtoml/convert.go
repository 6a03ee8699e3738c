package configtoml

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// conversion is the removal of `mirrors`, and on 1.x of configs.*.tls, which may not stand beside config_path. The zero
// conversion removes nothing.
type conversion struct {
	at       target
	keys     [][]string // what goes, below the registry table
	removals []change
	// registries are what it said.
	registries []hostconfig.Registry
}

func (v *conversion) isZero() bool { return len(v.keys) == 0 }

// conversion finds what has to go, in effect, and where it stands.
func (c *Config) conversion() (conversion, error) {
	keys := c.legacyKeys(c.result.registry)
	if len(keys) == 0 {
		return conversion{}, nil
	}
	var places []target
	for i := range c.Files {
		for _, plugin := range registryNames() {
			plugins, _ := c.Files[i].doc["plugins"].(table)
			isIgnored := slices.ContainsFunc(c.result.ignored, func(ig ignored) bool { return ig.file == i && ig.plugin == plugin })
			if !isIgnored && len(c.legacyKeys(registryOf(plugins, plugin))) > 0 {
				places = append(places, target{i, plugin})
			}
		}
	}
	var manual []Step
	for _, at := range places {
		f := &c.Files[at.file]
		manual = append(manual, Step{
			File: f.Real, Line: f.lineUnder("plugins", at.plugin, "registry"),
			Note: fmt.Sprintf("take %s out of [plugins.%q.registry]", c.legacyNames(), at.plugin),
		})
	}
	if len(places) != 1 {
		return conversion{}, &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot stand beside config_path, and several sections have them",
				c.legacyNames()), Manual: manual,
		}
	}
	v := conversion{at: places[0], keys: keys}
	var full [][]string
	for _, key := range keys {
		full = append(full, append([]string{"plugins", v.at.plugin, "registry"}, key...))
	}
	var ok bool
	if v.removals, ok = c.Files[v.at.file].remove(full...); !ok {
		return conversion{}, &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot stand beside config_path, and here they are not on lines of "+
				"their own", c.legacyNames()), Manual: manual,
		}
	}
	return v, nil
}

// legacyKeys returns the keys below a registry table that may not stand beside config_path. containerd does not mind
// empty tables (ValidatePluginConfig of pkg/cri/config/config.go, 1.7.35).
func (c *Config) legacyKeys(registry table) [][]string {
	var out [][]string
	if mirrors, _ := registry["mirrors"].(table); len(mirrors) > 0 {
		out = append(out, []string{"mirrors"})
	}
	if !c.rules.RefusesLegacyTLS {
		return out
	}
	configs, _ := registry["configs"].(table)
	for _, host := range slices.Sorted(maps.Keys(configs)) {
		if config, _ := configs[host].(table); config["tls"] != nil {
			out = append(out, []string{"configs", host, "tls"})
		}
	}
	return out
}

func (c *Config) legacyNames() string {
	if c.rules.RefusesLegacyTLS {
		return "`mirrors` and configs.*.tls"
	}
	return "`mirrors`"
}

// refuseMirrors says by hand what edit does.
func (c *Config) refuseMirrors(v conversion, edit Edit) *RefusedError {
	return &RefusedError{
		Code: "mirrors",
		Reason: fmt.Sprintf("%s has %s in [plugins.%q.registry], and beside config_path that takes CRI down",
			c.Files[v.at.file].Real, dottedName(v.keys[0]), v.at.plugin),
		Manual: stepsOf(edit),
	}
}

// refuseTwoFiles says what to do where the tables are in one file and config_path in another, which is no single edit.
func (c *Config) refuseTwoFiles(hostsDir string, v conversion, cause error) error {
	f := &c.Files[v.at.file]
	edit, err := c.edit(hostsDir, conversion{})
	if err != nil {
		return cause
	}
	r := c.refuseMirrors(v, Edit{Path: f.Real, Old: f.Data, New: apply(f.Data, v.removals)})
	r.Reason += fmt.Sprintf("; config_path itself is to be set in another section, in %s", edit.Path)
	r.Manual = append(stepsOf(edit), r.Manual...)
	return r
}

// stepsOf says by hand what an edit does, from the last line to the first, so that the numbers hold until the end.
func stepsOf(edit Edit) []Step {
	var out []Step
	before, after := lines(redacted(edit.Old)), lines(redacted(edit.New))
	for _, b := range slices.Backward(changedBlocks(before, after)) {
		s := Step{File: edit.Path, Line: b.oldStart + 1, Remove: b.oldEnd - b.oldStart}
		if b.oldStart == len(before) {
			s.Line = 0
		}
		for _, line := range after[b.newStart:b.newEnd] {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				s.Add = append(s.Add, line)
			}
		}
		out = append(out, s)
	}
	return out
}

// describe fills in the registries. Their files are read from the node.
func (v *conversion) describe(c *Config) error {
	l := legacy{node: c.node, tls: map[string]hostconfig.TLS{}}
	registry := plain(c.result.registry)
	l.mirrors, _ = registry["mirrors"].(table)
	if c.rules.RefusesLegacyTLS {
		l.configs, _ = registry["configs"].(table)
	}
	var err error
	if v.registries, err = l.registries(); err == nil {
		_, err = hostconfig.Render(v.registries, c.Version)
	}
	if err != nil {
		f := &c.Files[v.at.file]
		return &RefusedError{
			Code: "mirrors", Reason: fmt.Sprintf("%s cannot be converted: %v", c.legacyNames(), err),
			Manual: []Step{{
				File: f.Real, Line: f.lineUnder("plugins", v.at.plugin, "registry"),
				Note: fmt.Sprintf("write hosts.toml files for them and take %s out of [plugins.%q.registry]",
					c.legacyNames(), v.at.plugin),
			}},
		}
	}
	return nil
}

// legacy are the tables with which containerd was told of mirrors before there was hosts.toml.
type legacy struct {
	node             *node
	mirrors, configs table
	tls              map[string]hostconfig.TLS
}

// registries follows registryHosts and registryEndpoints of pkg/cri/server/image_pull.go, 1.7.35, which is the same in
// internal/cri/server/images/image_pull.go, 2.4.2, but for configs.*.tls.
func (l *legacy) registries() ([]hostconfig.Registry, error) {
	for _, host := range slices.Sorted(maps.Keys(l.configs)) {
		config, _ := l.configs[host].(table)
		settings, ok := config["tls"].(table)
		if !ok {
			continue
		}
		t, err := l.readTLS(settings)
		if err != nil {
			return nil, fmt.Errorf("configs.%q.tls: %w", host, err)
		}
		l.tls[host] = t
	}
	hosts := maps.Clone(l.mirrors)
	if hosts == nil {
		hosts = table{}
	}
	for host := range l.tls {
		if _, ok := hosts[host]; !ok {
			hosts[host] = l.mirrors["*"] // which stands for every host without mirrors of its own
		}
	}
	var out []hostconfig.Registry
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		reg, err := l.registry(host, hosts[host])
		if err != nil {
			return nil, fmt.Errorf("mirrors.%q: %w", host, err)
		}
		out = append(out, reg)
	}
	return out, nil
}

func (l *legacy) registry(host string, settings any) (hostconfig.Registry, error) {
	reg := hostconfig.Registry{Host: host, Upstream: hostconfig.Allow, TLS: l.tls[host]}
	if host == "*" {
		reg.Host, reg.TLS = hostconfig.DefaultHost, hostconfig.TLS{}
	}
	mirror, _ := settings.(table)
	endpoints, ok := mirror["endpoint"].([]any)
	if !ok && mirror["endpoint"] != nil {
		return reg, errors.New("endpoint must be a list")
	}
	for i, e := range endpoints {
		s, ok := e.(string)
		if !ok {
			return reg, fmt.Errorf("endpoint %d must be a string", i+1)
		}
		m, err := l.mirror(s)
		if err != nil {
			return reg, fmt.Errorf("endpoint %d: %w", i+1, err)
		}
		isSame := func(o hostconfig.Mirror) bool { return o.URL == m.URL && o.Path == m.Path }
		if slices.ContainsFunc(reg.Mirrors, isSame) {
			continue
		}
		reg.Mirrors = append(reg.Mirrors, m)
	}
	return withoutItself(reg), nil
}

// withoutItself turns a last mirror that is the registry itself into Upstream, and keeps containerd from adding the
// registry once more where it stands among the mirrors.
func withoutItself(reg hostconfig.Registry) hostconfig.Registry {
	if len(reg.Mirrors) == 0 {
		return reg
	}
	itself := []string{"https://" + reg.Host}
	if reg.Host == "docker.io" {
		itself = append(itself, "https://registry-1.docker.io")
	}
	last := len(reg.Mirrors) - 1
	if m := reg.Mirrors[last]; slices.Contains(itself, m.URL) && m.Path == "" {
		if reg.Mirrors = reg.Mirrors[:last]; last == 0 {
			reg.Mirrors = nil
		}
		return reg
	}
	for _, m := range reg.Mirrors {
		if _, host, _ := strings.Cut(m.URL, "://"); host == reg.Host {
			reg.Upstream = hostconfig.Deny
		}
	}
	return reg
}

// mirror never quotes the endpoint: it may hold a password.
func (l *legacy) mirror(endpoint string) (hostconfig.Mirror, error) {
	if !strings.Contains(endpoint, "://") { // addDefaultScheme
		scheme := "https"
		if name, _, _ := strings.Cut(endpoint, ":"); name == "localhost" || strings.HasPrefix(name, "127.") {
			scheme = "http"
		}
		endpoint = scheme + "://" + endpoint
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return hostconfig.Mirror{}, errors.New("it is no URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return hostconfig.Mirror{}, errors.New("its URL has more than a host and a path")
	}
	m := hostconfig.Mirror{URL: u.Scheme + "://" + u.Host}
	if err := hostconfig.ValidMirrorURL(m.URL); err != nil {
		return hostconfig.Mirror{}, err
	}
	p, isV2 := strings.CutPrefix(path.Clean("/"+u.Path)+"/", "/v2/")
	m.Path = strings.Trim(p, "/")
	if u.Path != "" && !isV2 {
		return hostconfig.Mirror{}, fmt.Errorf("its path does not begin with /v2, and containerd would ask for it as it is "+
			"at %q", u.Host)
	}
	if u.Scheme == "https" {
		m.TLS = l.tls[u.Host]
	}
	return m, nil
}

// readTLS follows getTLSConfig of pkg/cri/server/image_pull.go, 1.7.35.
func (l *legacy) readTLS(settings table) (hostconfig.TLS, error) {
	var t hostconfig.TLS
	t.SkipVerify, _ = settings["insecure_skip_verify"].(bool)
	ca, cert, key := text(settings["ca_file"]), text(settings["cert_file"]), text(settings["key_file"])
	if ca != "" {
		data, err := l.readPEM(ca)
		if err != nil {
			return t, err
		}
		if t.CA, err = certs.ParseBundle(data); err != nil {
			return t, fmt.Errorf("%s: %w", ca, err)
		}
	}
	if (cert == "") != (key == "") {
		return t, errors.New("cert_file and key_file belong together")
	}
	if cert == "" {
		return t, nil
	}
	certPEM, err := l.readPEM(cert)
	if err != nil {
		return t, err
	}
	keyPEM, err := l.readPEM(key)
	if err != nil {
		return t, err
	}
	pair, err := certs.ParseKeyPair(certPEM, keyPEM)
	if err != nil {
		return t, fmt.Errorf("%s: %w", cert, err)
	}
	t.Client = &pair
	return t, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func (l *legacy) readPEM(name string) ([]byte, error) {
	if !path.IsAbs(name) {
		return nil, fmt.Errorf("%q is relative, and depends on where containerd was started", name)
	}
	raw, err := l.node.read(path.Clean(name))
	if err != nil {
		return nil, err
	}
	return raw.data, nil
}
