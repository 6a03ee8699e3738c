package report

import "time"

// NodeReport is everything the agent knows about its node. It holds facts, no conclusions about other nodes, and no
// secrets: it is printed, served and logged.
type NodeReport struct {
	Node         string        `json:"node,omitempty"`
	AgentVersion string        `json:"agentVersion"`
	Time         time.Time     `json:"time"`
	Ready        bool          `json:"ready"`
	Config       ConfigStatus  `json:"config"`
	Containerd   Containerd    `json:"containerd"`
	Conditions   []Condition   `json:"conditions"`
	Registries   []Registry    `json:"registries,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	Images       []Image       `json:"images,omitempty"`
	// Unwanted are images that left the config, are to be deleted and have to stay for now.
	Unwanted []Unwanted `json:"unwanted,omitempty"`
	// Disk is the filesystem that has containerd's images; nil where the agent cannot look at it.
	Disk       *Disk `json:"disk,omitempty"`
	AgentProxy Proxy `json:"agentProxy,omitzero"`
	// Throttled are registry hosts that have asked this node to wait.
	Throttled []Throttle `json:"throttled,omitempty"`
	Restart   Restart    `json:"restart,omitzero"`
	// Released is true when the node is as it was before hotplate, because the coordinator asked for that.
	Released bool `json:"released,omitempty"`
}

// Disk is a filesystem. Sizes are in bytes; Free is what may be used by anybody.
type Disk struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Free int64  `json:"free"`
}

// ConfigStatus says which config is in force.
type ConfigStatus struct {
	Source string `json:"source"`
	// Hash is the SHA-256 of the config in force, in hex; empty while there is none.
	Hash string `json:"hash,omitempty"`
	// Rejected are the faults of a newer config that is not in force, one line each; empty when the newest is in
	// force.
	Rejected []string `json:"rejected,omitempty"`
}

// Containerd describes the daemon of this node.
type Containerd struct {
	Address string `json:"address"`
	Version string `json:"version,omitempty"`
	// HostsDir is the directory that hotplate writes for it.
	HostsDir string `json:"hostsDir"`
	// Proxy is what the daemon's environment says, passwords removed; it may differ from the agent's.
	Proxy Proxy `json:"proxy,omitzero"`
}

// Proxy is the HTTP proxy setting of one process, with passwords removed.
type Proxy struct {
	HTTP  string `json:"http,omitempty"`
	HTTPS string `json:"https,omitempty"`
	No    string `json:"no,omitempty"`
}

// ConditionStatus is True, False or Unknown, as in Kubernetes.
type ConditionStatus string

// The values of a condition.
const (
	True    ConditionStatus = "True"
	False   ConditionStatus = "False"
	Unknown ConditionStatus = "Unknown"
)

// The types of condition that a node reports.
const (
	// ConfigValid is False while the newest config is rejected; the last good one stays in force.
	ConfigValid = "ConfigValid"
	// ContainerdHealthy is True while the daemon and its CRI plugin answer.
	ContainerdHealthy = "ContainerdHealthy"
	// RegistriesConfigured is True when the hosts directory holds what the config asks for.
	RegistriesConfigured = "RegistriesConfigured"
	// HostsLive is True when the probe has shown that the running daemon obeys the hosts directory.
	HostsLive = "HostsLive"
	// CertificatesValid is False while a certificate that the config names is expired or unreadable.
	CertificatesValid = "CertificatesValid"
	// ImagesReady is True when every image of the config is Ready.
	ImagesReady = "ImagesReady"
	// Released is told only by a node that is asked to become as it was before hotplate: True when it is.
	Released = "Released"
)

// NoConfig is the reason of ConfigValid where nobody has written a config yet, or it was removed.
const NoConfig = "NoConfig"

// Starting is the reason of conditions that an agent has not looked at yet since it started. They are Unknown.
const Starting = "Starting"

// The reasons of HostsLive while the running daemon does not read the hosts directory, so that it must be restarted. They
// are of the status False; Restarting and RestartFailed are of Unknown where it is not known whether it reads it.
const (
	RestartNeeded    = "RestartNeeded"    // hotplate is about to look whether it may, or it cannot: the message says why
	RestartForbidden = "RestartForbidden" // restart.policy is Never
	OutsideWindow    = "OutsideWindow"    // restart.window is closed
	RestartDeferred  = "RestartDeferred"  // the node is busy; it is tried again
	WaitsForSlot     = "WaitsForSlot"     // the coordinator has not given the leave yet
	RestartRefused   = "RestartRefused"   // it would not be safe; somebody has to change something
	Restarting       = "Restarting"       // it is under way; also of ContainerdHealthy, which is Unknown then
	RolledBack       = "RolledBack"       // it was tried and taken back
	RestartFailed    = "RestartFailed"    // containerd does not work since; a person has to look
)

// Condition is one fact about the node, in the form of Kubernetes' metav1.Condition.
type Condition struct {
	Type   string          `json:"type"`
	Status ConditionStatus `json:"status"`
	// Reason is one CamelCase word for programs.
	Reason string `json:"reason"`
	// Message is for people: the object, the cause, the next step.
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime"`
}

// Registry is the state of one registry host's directory.
type Registry struct {
	Host string `json:"host"`
	// State is Applied, Conflict, Flapping or Failed.
	State   RegistryState `json:"state"`
	Message string        `json:"message,omitempty"`
	Mirrors []Mirror      `json:"mirrors,omitempty"`
}

// RegistryState says what became of a registry's part of the config.
type RegistryState string

// The states of a registry.
const (
	RegistryApplied  RegistryState = "Applied"
	RegistryConflict RegistryState = "Conflict"
	RegistryFlapping RegistryState = "Flapping"
	RegistryFailed   RegistryState = "Failed"
)

// Mirror is what the agent saw of a mirror when it last looked.
type Mirror struct {
	// URL is scheme://host[:port], with the mirror's path.
	URL       string `json:"url"`
	Reachable bool   `json:"reachable"`
	// Message is the answer or the error.
	Message string `json:"message,omitempty"`
	// Overlap is true while an old CA is still trusted beside the new one, because the mirror's certificate does
	// not verify against the new one yet.
	Overlap bool `json:"overlap,omitempty"`
}

// Certificate is one certificate that the config uses.
type Certificate struct {
	// Used names the config's bundle or key pair.
	Used     string    `json:"used"`
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
	// State is Valid, Expiring, Expired or NotYetValid.
	State string `json:"state"`
}

// ImagePhase is where an image is on its way to the node.
type ImagePhase string

// The phases of an image.
const (
	ImagePending   ImagePhase = "Pending"
	ImageResolving ImagePhase = "Resolving"
	ImageFetching  ImagePhase = "Fetching"
	ImageUnpacking ImagePhase = "Unpacking"
	ImageReady     ImagePhase = "Ready"
	ImageFailed    ImagePhase = "Failed"
)

// The reasons of an image's phase. The first ones are of Failed.
const (
	NoSpace          = "NoSpace"          // it does not fit on the disk
	TooMuchPinned    = "TooMuchPinned"    // prefetch.maxPinned would be exceeded
	ImageBroken      = "ImageBroken"      // nobody can unpack it: it must be rebuilt
	ContainerdAway   = "ContainerdAway"   // the daemon does not answer
	PullFailed       = "PullFailed"       // anything else: the message says
	WaitsForRegistry = "WaitsForRegistry" // Pending: the registry's part of the config is not applied
	WaitsForTurn     = "WaitsForTurn"     // Pending: other nodes pull now
	// WaitsForCoordinator is Pending: it has not said yet what the node should hold, or what a tag means. It is also the reason
	// of ImagesReady then, which is Unknown.
	WaitsForCoordinator = "WaitsForCoordinator"
	WaitsForRestart     = "WaitsForRestart" // Pending: containerd is to be restarted first
	NotReadyAnyMore     = "NotReadyAnyMore" // Pending: it was Ready, and lacks something now
	AsBefore            = "AsBefore"        // Ready: from before the start; the registry has not been asked yet
)

// Image is the state of one image of the config.
type Image struct {
	Name string `json:"name"`
	Ref  string `json:"ref"`
	// Digest is the manifest that is used on this node. Target is what the image's names point at: the index that it was
	// chosen from, or the same.
	Digest string     `json:"digest,omitempty"`
	Target string     `json:"target,omitempty"`
	Phase  ImagePhase `json:"phase"`
	// Reason is one CamelCase word for programs: why it is in this phase, where that needs one.
	Reason string `json:"reason,omitempty"`
	Pinned bool   `json:"pinned"`
	// BytesDone and BytesTotal count the compressed bytes of the layers at the last preparation; those found on the
	// node count as done.
	BytesDone  int64 `json:"bytesDone"`
	BytesTotal int64 `json:"bytesTotal"`
	// Rate is how many compressed bytes a second the node got of it lately, Left how long the rest takes at that rate, in
	// nanoseconds; 0 if unknown.
	Rate int64         `json:"rate,omitempty"`
	Left time.Duration `json:"left,omitempty"`
	// Size is what it takes on the disk in bytes, shared layers included; 0 if unknown.
	Size int64 `json:"size,omitempty"`
	// NotMountable is true for an artifact that is there but is no root filesystem.
	NotMountable bool `json:"notMountable,omitempty"`
	// Way is how its layers got in at the last preparation, Direct or API; WayReason why not directly. Kept tells whether
	// the compressed layers stayed. All are empty when the agent has not prepared it since its start.
	Way       string `json:"way,omitempty"`
	WayReason string `json:"wayReason,omitempty"`
	Kept      bool   `json:"kept,omitempty"`
	// BoundBy is what held the last preparation back: network, stream, disk or registry. Advice says what would help.
	BoundBy string   `json:"boundBy,omitempty"`
	Advice  []string `json:"advice,omitempty"`
	// Message says what it waits for, or why it failed and what to do.
	Message string `json:"message,omitempty"`
	// Retry is when a failed image is tried again.
	Retry time.Time `json:"retry,omitzero"`
	// Layers are told while the image is prepared.
	Layers []Layer `json:"layers,omitempty"`
}

// Layer is the state of one layer of an image that is being prepared.
type Layer struct {
	Digest string     `json:"digest"`
	Phase  ImagePhase `json:"phase"`
	// Size is the compressed size in bytes, Done how much of it the node has.
	Size int64 `json:"size"`
	Done int64 `json:"done"`
	// Unpacked is how much of it is laid out, in compressed bytes, where the way is Direct.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Rate and Left are as in Image.
	Rate int64         `json:"rate,omitempty"`
	Left time.Duration `json:"left,omitempty"`
	// Host is the registry host that its bytes come from.
	Host string `json:"host,omitempty"`
	// WaitingFor says what it waits for; empty while it moves.
	WaitingFor string `json:"waitingFor,omitempty"`
}

// Unwanted is an image that is still on the node although it should go.
type Unwanted struct {
	// ImageID is the digest of its config, as CRI calls it.
	ImageID string `json:"imageID"`
	// Size is what it takes on the disk in bytes; 0 if unknown.
	Size int64 `json:"size,omitempty"`
	// Message says why it stays.
	Message string `json:"message"`
}
