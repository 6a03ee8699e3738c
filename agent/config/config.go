package config

// APIVersion is the version of the document that this package reads.
const APIVersion = "hotplate.dev/v1alpha1"

// Config is the whole document, the same in a file and in a ConfigMap.
type Config struct {
	// APIVersion is hotplate.dev/v1alpha1. Required.
	APIVersion string `yaml:"apiVersion"`
	// Registries say where containerd finds images, one entry for each registry host. Default: none; containerd's
	// own behaviour stays as it is.
	Registries []Registry `yaml:"registries,omitempty"`
	// Certs are the CA bundles and key pairs that registries name. Default: none.
	Certs Certs `yaml:"certs,omitempty"`
	// Credentials are the logins that registries name. They are read from files or Secrets and never stand in this
	// document. Default: none.
	Credentials []Credential `yaml:"credentials,omitempty"`
	// Images are what the node has on its disk before a pod asks. Default: none.
	Images []Image `yaml:"images,omitempty"`
	// Prefetch says what fetching images may take of the node, and how images come and go. Default: as documented there.
	Prefetch Prefetch `yaml:"prefetch,omitempty"`
	// Restart says whether and when containerd may be restarted, where nothing else makes it read the hosts directory.
	// Default: as documented there.
	Restart Restart `yaml:"restart,omitempty"`
	// Cluster says what the coordinator of a cluster does. A node by itself takes no notice of it. Default: as documented
	// there.
	Cluster Cluster `yaml:"cluster,omitempty"`
}

// Registry says where containerd finds the images of one registry host.
type Registry struct {
	// Host is the name in an image reference: docker.io, host, host:port, [v6]:port, or _default for every host
	// that has no entry of its own. Required; no two entries may have the same.
	Host string `yaml:"host"`
	// Mirrors are asked in this order, before the registry itself. Default: none; then tls must be set.
	Mirrors []Mirror `yaml:"mirrors,omitempty"`
	// Upstream says whether the registry itself may be asked when no mirror answers: Allow makes mirrors a cache,
	// Deny a wall. Required where there are mirrors, because a wrong guess either leaks or breaks pulls. Without
	// mirrors it may only be Allow, the default there.
	Upstream Upstream `yaml:"upstream,omitempty"`
	// TLS is used towards the registry itself. Default: the node's own CA roots. Not allowed under Deny.
	TLS TLS `yaml:"tls,omitempty"`
	// Credentials names the login for the registry itself, used for prefetch only. Default: none. Not allowed
	// under Deny.
	Credentials string `yaml:"credentials,omitempty"`
	// Adopt permits taking over a directory for this host that somebody else wrote; their files are kept and put
	// back at uninstall. Default: false; such a directory is then a conflict, reported and left alone.
	Adopt bool `yaml:"adopt,omitempty"`
}

// Upstream is Allow or Deny.
type Upstream string

// The values of Upstream.
const (
	Allow Upstream = "Allow"
	Deny  Upstream = "Deny"
)

// Mirror is one place that serves a registry's images.
type Mirror struct {
	// URL is scheme://host[:port] without a path. Required; https or http. All mirrors of a registry that have the
	// same host use the same credentials, because containerd looks logins up by host.
	URL string `yaml:"url"`
	// Path is the path of the images below /v2, in Harbor the project. hotplate renders /v2/<path> together with
	// override_path. Without a slash at either end. Default: none.
	Path string `yaml:"path,omitempty"`
	// Capabilities are what containerd may ask of this mirror, of pull, resolve, push and referrers (containerd
	// 2.2 and later; left out for earlier ones). Default: pull and resolve.
	Capabilities []Capability `yaml:"capabilities,omitempty"`
	TLS          `yaml:",inline"`
	// Headers are sent with every request to this mirror. They stand in hosts.toml, which pods with access to the
	// host's files can read. Default: none.
	Headers map[string][]string `yaml:"headers,omitempty"`
	// Credentials names the login for this mirror. It is used for prefetch only; pods bring their own
	// imagePullSecrets, unless exposeToNode is set. Default: none.
	Credentials string `yaml:"credentials,omitempty"`
	// ExposeToNode also writes the credentials into hosts.toml (mode 0600), as an Authorization header: every pod
	// of the node may then pull everything that this login may. Default: false.
	ExposeToNode bool `yaml:"exposeToNode,omitempty"`
	// DialTimeout bounds one TCP connect, so that a mirror that is gone costs seconds and not minutes. containerd
	// honours it from 2.0.7 and 2.1.0 on. Default: 2s; at most 5m.
	DialTimeout Duration `yaml:"dialTimeout,omitempty"`
}

// Capability is something that containerd may ask of a mirror.
type Capability string

// The values of Capability.
const (
	Pull      Capability = "pull"
	Resolve   Capability = "resolve"
	Push      Capability = "push"
	Referrers Capability = "referrers"
)

// TLS says how a host proves itself to containerd, and containerd to it.
type TLS struct {
	// CA names bundles of certs.bundles, trusted in addition to the node's CA roots. Default: those roots only.
	CA []string `yaml:"ca,omitempty"`
	// ClientCert names a pair of certs.keyPairs, presented to a host that asks. Default: none.
	ClientCert string `yaml:"clientCert,omitempty"`
	// SkipVerify accepts any certificate. Whoever can answer for the host then decides what this node runs.
	// Default: false.
	SkipVerify bool `yaml:"skipVerify,omitempty"`
}

// Certs are named CA bundles and key pairs.
type Certs struct {
	// Bundles are sets of CA certificates. Default: none.
	Bundles []BundleSource `yaml:"bundles,omitempty"`
	// KeyPairs are client certificates with their keys. Default: none.
	KeyPairs []KeyPairSource `yaml:"keyPairs,omitempty"`
}

// BundleSource is a named CA bundle. At least one of pem, file, dir, configMap and secret must be set; what they hold is
// merged.
type BundleSource struct {
	// Name is what registries call it. Required, unique among bundles.
	Name string `yaml:"name"`
	// PEM holds certificates, and nothing else. Default: none.
	PEM string `yaml:"pem,omitempty"`
	// File is the absolute path of a PEM file. It is watched: a change takes effect within a second. Default: none.
	File string `yaml:"file,omitempty"`
	// Dir is the absolute path of a directory whose *.pem, *.crt and *.cer files are read. It is watched. Default:
	// none.
	Dir string `yaml:"dir,omitempty"`
	// ConfigMap names one in the agent's own namespace. It is watched. Only in a cluster. Default: none.
	ConfigMap *ObjectRef `yaml:"configMap,omitempty"`
	// Secret names one in the agent's own namespace. It is watched. Only in a cluster. Default: none.
	Secret *ObjectRef `yaml:"secret,omitempty"`
}

// ObjectRef names certificates in a ConfigMap or Secret.
type ObjectRef struct {
	// Name is that of the object. Required.
	Name string `yaml:"name"`
	// Key is the one that is read. Default: every key that ends in .pem, .crt or .cer.
	Key string `yaml:"key,omitempty"`
}

// KeyPairSource is a named client certificate with its key. Each comes either inline or from a file, or both from a Secret.
type KeyPairSource struct {
	// Name is what registries call it. Required, unique among key pairs.
	Name string `yaml:"name"`
	// Cert is the certificate chain in PEM, leaf first. Either cert, certFile or secret is required.
	Cert string `yaml:"cert,omitempty"`
	// CertFile is the absolute path of a PEM file with the certificate chain. It is watched.
	CertFile string `yaml:"certFile,omitempty"`
	// Key is the private key in PEM. Either key, keyFile or secret is required; whoever reads this document reads an
	// inline key, so prefer the others.
	Key Secret `yaml:"key,omitempty"`
	// KeyFile is the absolute path of a PEM file with the private key. It is watched.
	KeyFile string `yaml:"keyFile,omitempty"`
	// Secret names one of type kubernetes.io/tls in the agent's own namespace: its tls.crt and tls.key are used. It is
	// watched. Only in a cluster.
	Secret string `yaml:"secret,omitempty"`
}

// Credential is a named login. Either dockerConfigFile, or usernameFile together with passwordFile, or secret is required.
type Credential struct {
	// Name is what registries call it. Required, unique.
	Name string `yaml:"name"`
	// DockerConfigFile is the absolute path of a docker config JSON, as in a Secret of type
	// kubernetes.io/dockerconfigjson. It is watched. Credential helpers in it are not run, and a login is found by
	// the host of a mirror's url, or the registry's own.
	DockerConfigFile string `yaml:"dockerConfigFile,omitempty"`
	// UsernameFile is the absolute path of a file with the user name; surrounding white space is cut off. It is
	// watched.
	UsernameFile string `yaml:"usernameFile,omitempty"`
	// PasswordFile is the absolute path of a file with the password or token; a trailing newline is cut off. It is
	// watched.
	PasswordFile string `yaml:"passwordFile,omitempty"`
	// Secret names one of type kubernetes.io/dockerconfigjson or kubernetes.io/basic-auth in the agent's own namespace. It
	// is watched. Only in a cluster.
	Secret string `yaml:"secret,omitempty"`
}

// Image is one image that the node should hold.
type Image struct {
	// Name is what people and labels call it. Required, unique, a DNS label.
	Name string `yaml:"name"`
	// Ref is the image as pods write it: host/repository:tag, @digest or both. Required. A reference without a
	// host means docker.io, as everywhere.
	Ref string `yaml:"ref"`
	// Aliases are other names that pods use for the same image. Default: none.
	Aliases []string `yaml:"aliases,omitempty"`
	// Platform picks from an index, such as linux/amd64. Default: the node's.
	Platform string `yaml:"platform,omitempty"`
	// Priority orders images: higher first, equal ones in the order of this document. Default: 0.
	Priority int `yaml:"priority,omitempty"`
	// Pin protects the image from the kubelet's garbage collection (containerd 1.6.22, 1.7.3 and later). Default: true.
	Pin *bool `yaml:"pin,omitempty"`
	// NodeSelector holds labels, all of which a node must have to hold this image. The coordinator goes by it; a node
	// without one takes the image as wanted, and warns. Default: every node.
	NodeSelector map[string]string `yaml:"nodeSelector,omitempty"`
}

// Prefetch says what fetching images may take of the node, and how images come and go.
type Prefetch struct {
	// MaxParallel is how many requests for parts of images are under way at once, over all images. Fewer are, where more
	// make nothing faster. Default: 32; 1 to 128.
	MaxParallel int `yaml:"maxParallel,omitempty" jsonschema:"minimum=1,maximum=128"`
	// MaxImages is how many images of the same priority are prepared at once. One of lower priority begins when the
	// bytes of those before it are on the node. Default: 2; 1 to 16.
	MaxImages int `yaml:"maxImages,omitempty" jsonschema:"minimum=1,maximum=16"`
	// Memory is how much memory prefetch may take, as a Kubernetes quantity of bytes: parts on their way from the network
	// to the disk, and what unpacking needs. With less, fewer parts are under way. Default: 256Mi; at least 16Mi.
	Memory Bytes `yaml:"memory,omitempty"`
	// MaxBandwidth is how many bytes a second are fetched at most, over all images. Default: no limit; at least 1Mi.
	MaxBandwidth Bytes `yaml:"maxBandwidth,omitempty"`
	// KeepLayers says whether compressed layers stay on the disk beside the unpacked ones. Always: other nodes can fetch
	// them from this one, and an interrupted pull goes on where it was. Never: half the disk and half the writes, but an
	// interrupted layer begins anew. Auto does as containerd's own discard_unpacked_layers. Default: Auto.
	KeepLayers KeepLayers `yaml:"keepLayers,omitempty"`
	// Way says how layers get into containerd. Auto: hotplate unpacks them itself where it can, which is faster, and
	// elsewhere containerd does; status says which and why. API: containerd always does; try it where you suspect that
	// hotplate unpacks something wrongly. Default: Auto.
	Way Way `yaml:"way,omitempty"`
	// DiskReserve is the share of each filesystem that is left free: an image that would take of it is not begun. With
	// less than the kubelet's own threshold (15% where it is not set) it removes images again. Default: 15%; 0% to 90%.
	DiskReserve *Percent `yaml:"diskReserve,omitempty"`
	// MaxPinned is how many bytes on the disk all pinned images together may take; an image that would exceed it is not
	// begun. Default: no limit; at least 1Mi.
	MaxPinned Bytes `yaml:"maxPinned,omitempty"`
	// LowPriority lowers the priority of the agent's process for CPU and disk (nice 10, best-effort I/O of the lowest level),
	// so that containers go first where both are short; pulls may take longer then. Turned off, the agent must be restarted
	// to get its priority back. Default: false.
	LowPriority bool `yaml:"lowPriority,omitempty"`
	// WhenUnwanted says what becomes of a pinned image that is not in the config any more, once all that are in it are
	// Ready. Unpin: the kubelet may remove it when the disk fills up. Delete: it is removed as soon as no container uses it;
	// until then it stays pinned. Images with pin: false are left to the kubelet in any case. Default: Unpin.
	WhenUnwanted WhenUnwanted `yaml:"whenUnwanted,omitempty"`
}

// KeepLayers is Auto, Always or Never.
type KeepLayers string

// The values of KeepLayers.
const (
	KeepAuto   KeepLayers = "Auto"
	KeepAlways KeepLayers = "Always"
	KeepNever  KeepLayers = "Never"
)

// Way is Auto or API.
type Way string

// The values of Way.
const (
	WayAuto Way = "Auto"
	WayAPI  Way = "API"
)

// WhenUnwanted is Unpin or Delete.
type WhenUnwanted string

// The values of WhenUnwanted.
const (
	Unpin  WhenUnwanted = "Unpin"
	Delete WhenUnwanted = "Delete"
)

// Cluster says what the coordinator of a cluster does.
type Cluster struct {
	// MaxUnavailable is how many nodes at once may be restarting containerd, or not Ready since a restart. Default: 1; 1 to
	// 1000.
	MaxUnavailable int `yaml:"maxUnavailable,omitempty" jsonschema:"minimum=1,maximum=1000"`
	// MaxConcurrentNodes is how many nodes may pull from registries at once. Default: 10; 1 to 10000.
	MaxConcurrentNodes int `yaml:"maxConcurrentNodes,omitempty" jsonschema:"minimum=1,maximum=10000"`
	// ResolveInterval is how often it is looked up again what a tag means. Default: 10m; at least 30s.
	ResolveInterval Duration `yaml:"resolveInterval,omitempty"`
	// PauseRestarts lets no node restart containerd; what has begun goes on. Default: false.
	PauseRestarts bool `yaml:"pauseRestarts,omitempty"`
}
