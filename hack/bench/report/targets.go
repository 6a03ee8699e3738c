package report

import "fmt"

// The names of links and contestants that targets speak of.
const (
	LinkUnlimited = "unlimited"
	LinkSlow      = "40MBps"
	LinkFlawed    = "40MBps-flawed"

	Default = "containerd-default"
	Tuned   = "containerd-tuned"
	Kept    = "hotplate-kept"
	NotKept = "hotplate-not-kept"
)

// Verdict compares one number with what it should be.
type Verdict struct {
	What string `json:"what"`
	// Value and AtMost are ratios of seconds, or MiB.
	Value  float64 `json:"value"`
	AtMost float64 `json:"atMost"`
	Unit   string  `json:"unit,omitempty"`
	// Word is "pass", "fail" or "not measured".
	Word string `json:"verdict"`
	// Bound is "<" or ">" where the value is a bound, for one side did not finish, and "?" if neither did.
	Bound string `json:"bound,omitempty"`
}

const (
	pass        = "pass"
	fail        = "fail"
	notMeasured = "not measured"
)

// ratioTarget wants the seconds of hotplate with blobs kept to be at most a part of another's.
type ratioTarget struct {
	image, link, against string
	atMost               float64
}

func ratioTargets() []ratioTarget {
	list := []ratioTarget{
		{"A", LinkSlow, Tuned, 0.60},
		{"A", LinkSlow, Default, 0.15},
		{"A", LinkUnlimited, Tuned, 0.65},
		{"A", LinkUnlimited, Default, 0.90},
		{"A", LinkFlawed, Tuned, 0.50},
	}
	for _, image := range []string{"B", "C"} {
		for _, link := range []string{LinkUnlimited, LinkSlow, LinkFlawed} {
			list = append(list, ratioTarget{image, link, Tuned, 1})
		}
	}
	return list
}

// The most memory that hotplate may use for any image, and containerd while hotplate pulls, in MiB.
const (
	mostHotplate   = 300
	mostContainerd = 200
)

func verdicts(r *Report) []Verdict {
	var list []Verdict
	for _, t := range ratioTargets() {
		list = append(list, t.judge(r.Summary))
	}
	memory := func(what string, get func(Run) Process, atMost float64) {
		v := Verdict{What: what, AtMost: atMost, Unit: "MiB", Word: notMeasured}
		for _, run := range r.Runs {
			if run.Contestant == Kept || run.Contestant == NotKept {
				v.Value = max(v.Value, mib(get(run).PeakRSS))
				v.Word = word(v.Value <= atMost)
			}
		}
		list = append(list, v)
	}
	memory("peak RSS of hotplate, every image", func(r Run) Process { return r.Hotplate }, mostHotplate)
	memory("peak RSS of containerd while hotplate pulls", func(r Run) Process { return r.Containerd }, mostContainerd)
	return list
}

func (t ratioTarget) judge(s Summary) Verdict {
	v := Verdict{
		What:   fmt.Sprintf("image %s, %s: %s / %s", t.image, t.link, Kept, t.against),
		AtMost: t.atMost, Word: notMeasured,
	}
	ours, ok1 := s.find(t.image, t.link, Kept)
	theirs, ok2 := s.find(t.image, t.link, t.against)
	if !ok1 || !ok2 || theirs.Seconds == 0 {
		return v
	}
	v.Value = ours.Seconds / theirs.Seconds
	v.Bound = bound(ours, theirs)
	v.Word = word(v.Value <= t.atMost && !ours.Unfinished)
	return v
}

// bound is how the true ratio of two cells' seconds compares with the one that was measured.
func bound(ours, theirs Cell) string {
	switch {
	case ours.Unfinished && theirs.Unfinished:
		return "?"
	case ours.Unfinished:
		return ">"
	case theirs.Unfinished:
		return "<"
	}
	return ""
}

func word(ok bool) string {
	if ok {
		return pass
	}
	return fail
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
