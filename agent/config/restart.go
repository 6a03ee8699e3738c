package config

// Restart says whether and when hotplate may restart containerd. It wants to only where the running containerd does not
// read the hosts directory: then config_path must change, and that is read at the start alone.
type Restart struct {
	// Policy says whether. WhenNeeded: containerd is restarted where nothing else will do and it is safe, and the old
	// configuration comes back by itself if anything goes wrong; containers keep running. Never: the hosts directory is
	// written, and the status says why a restart is needed; somebody else has to do it. Default: WhenNeeded.
	Policy RestartPolicy `yaml:"policy,omitempty"`
	// Window is when a restart may begin. One that has begun goes on to its end. Default: at any time.
	Window *Window `yaml:"window,omitempty"`
	// Soak is for how long the restarted containerd is watched before it is believed; until then the old configuration
	// comes back if it fails. Default: 30s; at most 1h.
	Soak Duration `yaml:"soak,omitempty"`
	// Dependants are units of systemd that may go down with containerd, because hotplate starts them again. Where a unit
	// that requires containerd is not in this list, containerd is not restarted. Default: none.
	Dependants []string `yaml:"dependants,omitempty"`
	// ConvertMirrors permits to take legacy registry mirrors out of containerd's configuration, beside which it does not
	// load config_path. Write the same mirrors into registries first: uninstall does not put them back. Default: false;
	// such a node is not restarted.
	ConvertMirrors bool `yaml:"convertMirrors,omitempty"`
	// WithoutRescue also permits it where there is no systemd, but something that starts containerd again when it ends: a
	// loop, runit, s6, OpenRC. Then nobody but hotplate puts the old configuration back, so that a node on which hotplate is
	// killed in the middle keeps the new one until it runs again. The agent must see the node's processes. Default: false.
	WithoutRescue bool `yaml:"withoutRescue,omitempty"`
}

// RestartPolicy is WhenNeeded or Never.
type RestartPolicy string

// The values of RestartPolicy.
const (
	RestartWhenNeeded RestartPolicy = "WhenNeeded"
	RestartNever      RestartPolicy = "Never"
)

// Window is a maintenance window that comes every week, by the clock on the wall of its time zone. One of days, start
// and end must be set.
type Window struct {
	// TimeZone is a name of the IANA database, such as Europe/Berlin, whose changes between summer and winter time count.
	// Default: UTC.
	TimeZone string `yaml:"timeZone,omitempty"`
	// Days are those on which the window opens, of Mon, Tue, Wed, Thu, Fri, Sat and Sun. Default: every day.
	Days []Day `yaml:"days,omitempty"`
	// Start is when it opens, as HH:MM. Default: 00:00.
	Start TimeOfDay `yaml:"start,omitempty"`
	// End is when it closes, as HH:MM; not after start means on the next day. It is open for at least 30 minutes.
	// Default: 24:00.
	End TimeOfDay `yaml:"end,omitempty"`
}

// Day is a day of the week: Mon, Tue, Wed, Thu, Fri, Sat or Sun.
type Day string

// Days are the values of Day, as time.Weekday counts them.
func Days() []Day { return []Day{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"} }
