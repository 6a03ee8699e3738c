package report

import (
	"fmt"
	"time"
)

// Restart is what the agent does about a containerd that must be restarted, and how earlier restarts ended.
type Restart struct {
	// Policy is that of the config in force, WhenNeeded or Never; empty before there is one.
	Policy string `json:"policy,omitempty"`
	// Next is when something is done next; zero where nothing is to be done, or that depends on somebody else.
	Next time.Time `json:"next,omitzero"`
	// Slot says whether the node waits for the coordinator's leave to restart, or uses it.
	Slot Slot `json:"slot,omitempty"`
	// Checks are what was looked at last, while a restart is needed.
	Checks []Check `json:"checks,omitempty"`
	// Records are how the last restarts that changed anything ended, the newest first. Few are told; all are in the state
	// directory.
	Records []RestartRecord `json:"records,omitempty"`
}

// Check is one thing that was looked at before a restart.
type Check struct {
	Name string `json:"name"`
	// Verdict is pass, note, defer (not now) or refuse (not until somebody changes something).
	Verdict string `json:"verdict"`
	Detail  string `json:"detail,omitempty"`
}

// RestartRecord is how one restart ended.
type RestartRecord struct {
	// How is Restarted, RolledBack, Abandoned (before containerd was restarted) or Failed.
	How  string    `json:"how"`
	Time time.Time `json:"time"`
	// Reason is for people.
	Reason string `json:"reason"`
	Unit   string `json:"unit,omitempty"`
	// File is the configuration that was changed.
	File string `json:"file,omitempty"`
	// Downtime is how long CRI was away, in nanoseconds; 0 if it was not, or that is not known.
	Downtime time.Duration `json:"downtime,omitempty"`
	// Rescued says that the node put the old configuration back by itself.
	Rescued bool `json:"rescued,omitempty"`
}

// Assessment is what a restart would do now.
type Assessment struct {
	// Verdict is what all checks come to: pass, defer or refuse. Live means that no restart is needed.
	Verdict string  `json:"verdict"`
	Live    bool    `json:"live"`
	Checks  []Check `json:"checks"`
	// Diff is the change of containerd's configuration, with what may be secret replaced by …; empty where there is none.
	Diff string `json:"diff,omitempty"`
}

// checkRows are the checks that keep a restart from being done.
func (r NodeReport) checkRows() [][]string {
	rows := [][]string{{"RESTART CHECK", "VERDICT", "DETAIL"}}
	for _, c := range r.Restart.Checks {
		if c.Verdict != "pass" && c.Verdict != "note" {
			rows = append(rows, []string{c.Name, c.Verdict, c.Detail})
		}
	}
	return rows
}

func (r NodeReport) restartRows(now time.Time) [][]string {
	rows := [][]string{{"RESTART OF CONTAINERD", "AGO", "AWAY FOR", "UNIT", "REASON"}}
	for _, o := range r.Restart.Records {
		how, away := o.How, "-"
		if o.Rescued {
			how += " by the node itself"
		}
		if o.Downtime > 0 {
			away = o.Downtime.Round(time.Millisecond).String()
		}
		rows = append(rows, []string{how, ago(now, o.Time), away, o.Unit, o.Reason})
	}
	return rows
}

// nextTry says when something is done about a restart.
func (r NodeReport) nextTry(now time.Time) string {
	if r.Restart.Next.IsZero() {
		return ""
	}
	return fmt.Sprintf(" (next in %s)", max(r.Restart.Next.Sub(now), 0).Round(time.Second))
}
