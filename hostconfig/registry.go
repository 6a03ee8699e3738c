package hostconfig

import (
	"net/http"
	"time"

	"github.com/hotplate-dev/hotplate/certs"
)

// DefaultHost is the registry host that stands for every host without a directory of its own.
const DefaultHost = "_default"

// Registry says where containerd finds the images of one registry host.
type Registry struct {
	// Host is the name in an image reference: docker.io, host, host:port, [v6]:port, or DefaultHost.
	Host string
	// Mirrors are asked in this order, before the registry itself.
	Mirrors []Mirror
	// Upstream says whether the registry itself may be asked when no mirror answers.
	Upstream Upstream
	// TLS is used towards the registry itself. It has no effect under Deny.
	TLS TLS
	// Adopt permits taking over a host directory that somebody else wrote. Their files are kept and put back at
	// uninstall.
	Adopt bool
}

// Upstream says whether containerd may fall back to the registry that an image reference names.
type Upstream string

const (
	// Allow makes mirrors a cache: what they do not answer is asked of the registry itself.
	Allow Upstream = "Allow"
	// Deny makes mirrors a wall: the last mirror is rendered as `server`, the only form that keeps containerd
	// from asking the registry itself (capabilities do not: containerd core/remotes/docker/fetcher.go ignores
	// them for blobs).
	Deny Upstream = "Deny"
)

// Mirror is one place that serves a registry's images.
type Mirror struct {
	// URL is scheme://host[:port], without a path.
	URL string
	// Path is the path of the images below /v2, in Harbor the project; empty for none. It has no leading or
	// trailing slash.
	Path string
	// Capabilities are what containerd may ask of this mirror; empty means pull and resolve.
	Capabilities []Capability
	TLS          TLS
	// Header is sent with every request. It may hold credentials: the file then gets mode 0600.
	Header http.Header
	// DialTimeout bounds one TCP connect; 0 means 2 s. containerd honours it from 2.0.7 and 2.1.0 on.
	DialTimeout time.Duration
}

// Capability is something that containerd may ask of a host, in the spelling of hosts.toml.
type Capability string

// The capabilities that hosts.toml knows. CapabilityReferrers is rendered for containerd 2.2 and later only: earlier
// ones reject the whole file and go to upstream.
const (
	CapabilityPull      Capability = "pull"
	CapabilityResolve   Capability = "resolve"
	CapabilityPush      Capability = "push"
	CapabilityReferrers Capability = "referrers"
)

// TLS says how a host proves itself to containerd and containerd to it.
type TLS struct {
	// CA is trusted in addition to the system's roots; the zero Bundle means the system's roots only.
	CA certs.Bundle
	// Client is presented to a host that asks for a certificate; nil for none.
	Client *certs.KeyPair
	// SkipVerify turns the check of the host's certificate off.
	SkipVerify bool
}
