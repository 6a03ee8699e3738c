package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Registries is what a snapshot asks of the hosts directory. Its error is the snapshot's own, or says everything for which
// the snapshot cannot be put in force.
func Registries(s config.Snapshot) ([]hostconfig.Registry, error) {
	if s.Err != nil {
		return nil, s.Err
	}
	regs, err := registries(s)
	if err != nil {
		return nil, err
	}
	if _, err := hostconfig.Render(regs, hostconfig.Version{}); err != nil {
		return nil, err
	}
	return regs, nil
}

// registries is the config in the terms of hostconfig, with certificates and exposed credentials filled in. It reports
// all faults at once.
func registries(s config.Snapshot) ([]hostconfig.Registry, error) {
	var out []hostconfig.Registry
	var errs []error
	for _, r := range s.Config.Registries {
		reg := hostconfig.Registry{
			Host:     r.Host,
			Upstream: hostconfig.Upstream(r.Upstream),
			TLS:      tlsOf(s, r.TLS),
			Adopt:    r.Adopt,
		}
		for _, m := range r.Mirrors {
			mirror, err := mirrorOf(s, m)
			if err != nil {
				errs = append(errs, fmt.Errorf("registry %s: mirror %s: %w", r.Host, m.URL, err))
			}
			reg.Mirrors = append(reg.Mirrors, mirror)
		}
		out = append(out, reg)
	}
	return out, errors.Join(errs...)
}

func mirrorOf(s config.Snapshot, m config.Mirror) (hostconfig.Mirror, error) {
	mirror := hostconfig.Mirror{
		URL:         m.URL,
		Path:        m.Path,
		TLS:         tlsOf(s, m.TLS),
		DialTimeout: time.Duration(m.DialTimeout),
	}
	for _, c := range m.Capabilities {
		mirror.Capabilities = append(mirror.Capabilities, hostconfig.Capability(c))
	}
	if len(m.Headers) > 0 || m.ExposeToNode {
		mirror.Header = make(http.Header)
	}
	maps.Copy(mirror.Header, m.Headers)
	if m.ExposeToNode {
		login, ok := s.Logins[m.Credentials].Login(hostOf(m.URL))
		if !ok {
			return mirror, fmt.Errorf("credentials %q hold no login for this host", m.Credentials)
		}
		value, err := login.Authorization()
		if err != nil {
			return mirror, fmt.Errorf("credentials %q: %w", m.Credentials, err)
		}
		mirror.Header["Authorization"] = []string{string(value)}
	}
	return mirror, nil
}

// tlsOf fills in the certificates that t names. The config was validated, so the names exist.
func tlsOf(s config.Snapshot, t config.TLS) hostconfig.TLS {
	out := hostconfig.TLS{SkipVerify: t.SkipVerify}
	var bundles []certs.Bundle
	for _, name := range t.CA {
		bundles = append(bundles, s.Bundles[name])
	}
	out.CA = certs.Merge(bundles...)
	if pair, ok := s.KeyPairs[t.ClientCert]; ok {
		out.Client = &pair
	}
	return out
}

// endpoint is one place that containerd may be sent to, and what it trusts there.
type endpoint struct {
	registry string
	// url is scheme://host[:port], with the path of a mirror: two projects of one Harbor are two places.
	url string
	tls *hostconfig.TLS
}

func (e endpoint) key() string { return trustKey(e.registry, e.url) }

// endpoints are the mirrors of regs, and the registries themselves where the config says something of their TLS. No two
// of a registry have the same url. The TLS pointers point into regs.
func endpoints(regs []hostconfig.Registry) []endpoint {
	var out []endpoint
	for i := range regs {
		r := &regs[i]
		seen := make(map[string]bool)
		add := func(url string, tls *hostconfig.TLS) {
			if !seen[url] {
				seen[url] = true
				out = append(out, endpoint{registry: r.Host, url: url, tls: tls})
			}
		}
		for j := range r.Mirrors {
			m := &r.Mirrors[j]
			add(strings.TrimSuffix(m.URL+"/"+m.Path, "/"), &m.TLS)
		}
		if r.Upstream != hostconfig.Deny && r.Host != hostconfig.DefaultHost && !r.TLS.CA.IsZero() {
			add("https://"+askedAs(r.Host), &r.TLS)
		}
	}
	return out
}

// askedAs is where requests for the registry host go.
func askedAs(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

// registryLogins are the logins of a config by registry host and the host that is really asked. Each registry has its
// own: two of them may be projects of one Harbor, each with its own robot.
type registryLogins map[string]map[string]config.Login

func loginsOf(s config.Snapshot) registryLogins {
	out := make(registryLogins)
	for _, r := range s.Config.Registries {
		byHost := make(map[string]config.Login)
		add := func(host, credentials string) {
			// Without a login the request is anonymous; the config warned of it.
			if login, ok := s.Logins[credentials].Login(host); ok && credentials != "" {
				byHost[host] = login
			}
		}
		add(r.Host, r.Credentials)
		add(askedAs(r.Host), r.Credentials)
		for _, m := range r.Mirrors {
			add(hostOf(m.URL), m.Credentials)
		}
		out[r.Host] = byHost
	}
	return out
}

// find returns what prefetch asks for logins.
func (l registryLogins) find() Logins {
	return func(registry, host string) (string, string, error) {
		byHost, ok := l[registry]
		if !ok {
			byHost = l[hostconfig.DefaultHost]
		}
		return byHost[host].Username, string(byHost[host].Password), nil
	}
}

// LoginsOf are the logins of a snapshot without faults.
func LoginsOf(s config.Snapshot) Logins { return loginsOf(s).find() }

// sources is, by registry host, all that decides where its images come from.
func sources(regs []hostconfig.Registry, known registryLogins) map[string]any {
	type source struct {
		registry hostconfig.Registry
		logins   map[string]config.Login
	}
	out := make(map[string]any, len(regs))
	for _, r := range regs {
		out[r.Host] = source{registry: r, logins: known[r.Host]}
	}
	return out
}

// hostOf is host[:port] of a URL that was validated.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

// sortedKeys is for log lines and reports that should not change from one look to the next.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
