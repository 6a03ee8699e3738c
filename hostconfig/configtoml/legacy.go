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
