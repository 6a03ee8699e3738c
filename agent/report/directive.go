package report

import "time"

// The wire between agent and coordinator: the agent posts its NodeReport to ReportPath, the answer is a Directive. Both are
// JSON; who does not know a field ignores it, so that agents and coordinators of neighbouring versions understand each other.
const (
	ReportPath = "/v1/report"
	// CoordinatorName is the name that the coordinator's certificate is for, whatever its address is, and the audience of the
	// tokens by which agents prove who they are. A ConfigMap of that name is where the leading coordinator says where it is, in
	// URLKey, and what its certificate is verified against, in CAKey.
	CoordinatorName = "hotplate-coordinator"
	URLKey          = "url"
	CAKey           = "ca.crt"
	// MaxReport and MaxDirective bound what is read of each, in bytes after decompression.
	MaxReport    = 1 << 20
	MaxDirective = 1 << 20
)

// Directive is what the coordinator asks of one node. It holds no secrets.
type Directive struct {
	// ConfigHash is that of the config it follows from. An agent that has another one in force goes by its own images
	// until the two agree.
	ConfigHash string `json:"configHash"`
	// Images are what the node should hold, in the order of the config and then of preheats.
	Images []WantedImage `json:"images"`
	// Pull is the leave to fetch images. Without it the node begins none that is not there.
	Pull Leave `json:"pull"`
	// Restart is the leave to restart containerd, for a node that has asked for it (Restart.Slot).
	Restart Leave `json:"restart"`
	// Throttled are registry hosts that asked somebody to wait.
	Throttled []Throttle `json:"throttled,omitempty"`
	// NextReport is when the node is to report again at the latest, in nanoseconds from now.
	NextReport time.Duration `json:"nextReport"`
	// Release asks the node to become as it was before hotplate.
	Release bool `json:"release,omitempty"`
}

// WantedImage is one image that a node should hold.
type WantedImage struct {
	// Name is that of the image set, or one made of the reference for a preheat.
	Name string `json:"name"`
	// Ref is the image as pods write it; Digest what it means, empty while that is not known.
	Ref      string   `json:"ref"`
	Digest   string   `json:"digest,omitempty"`
	Aliases  []string `json:"aliases,omitempty"`
	Platform string   `json:"platform,omitempty"`
	Priority int      `json:"priority,omitempty"`
	Pin      bool     `json:"pin"`
}

// Leave is something that a node may do now, or not.
type Leave struct {
	Granted bool `json:"granted"`
	// Reason says for people why not.
	Reason string `json:"reason,omitempty"`
	// For is how long a leave to restart may be used to begin, in nanoseconds from the answer on; then it must be asked for
	// again.
	For time.Duration `json:"for,omitempty"`
}

// Throttle is a registry host that answered with Retry-After.
type Throttle struct {
	// Host is host[:port] as it was asked.
	Host string `json:"host"`
	// For is how long nobody should ask it, in nanoseconds from now on: clocks differ.
	For time.Duration `json:"for"`
}

// Slot is what a node does about the leave to restart containerd.
type Slot string

// The values of Slot: none is asked for; it is waited for; it is used.
const (
	SlotNone   Slot = ""
	SlotWanted Slot = "Wanted"
	SlotHeld   Slot = "Held"
)
