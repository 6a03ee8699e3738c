package coordinator

import (
	"fmt"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// The reasons of the condition HotplateReady, beside those of the node's own conditions.
const (
	ReasonReady      = "Ready"
	ReasonSilent     = "AgentSilent"     // no report for SilentAfter
	ReasonBehind     = "ConfigBehind"    // the node has another config in force
	ReasonRejected   = "ConfigRejected"  // the node has none, for what there is is not valid
	ReasonPreparing  = "ImagesPreparing" // on their way
	ReasonFailed     = "ImageFailed"
	ReasonUnresolved = "ImageUnresolved" // no registry says what its tag means
)

// behindAfter is how long after a change of the config a node may have another one in force.
const behindAfter = 2 * time.Minute

// startingFor is how long an agent that has just started may not have looked at everything.
const startingFor = 30 * time.Second

// starting tells whether an agent has just started: none of its conditions is older. All times are the node's own.
func starting(r report.NodeReport) bool {
	for _, c := range r.Conditions {
		if r.Time.Sub(c.LastTransitionTime) >= startingFor {
			return false
		}
	}
	return true
}

// progressStep is how coarse the progress is that is written on a Node, in percent.
const progressStep = 25

// ImageState is what has become of one image on a node, as its label says.
type ImageState string

// The states of an image.
const (
	ImagePending ImageState = "pending"
	ImageReady   ImageState = "ready"
	ImageFailed  ImageState = "failed"
)

// Conclusion is what a node's report comes to.
type Conclusion struct {
	Status  report.ConditionStatus
	Reason  string
	Message string
	// Images are the states of what the node should hold, by name.
	Images map[string]ImageState
	// Faults are those of the node's annotation.
	Faults []string
	// Released says that the node is as it was before hotplate, so that nothing is to be said of it any more.
	Released bool
}

// question is everything that a conclusion follows from.
type question struct {
	hash    string    // of the config that counts
	changed time.Time // when that became so
	wanted  Wanted
	unknown map[string]string // why the tag of a reference is not resolved, by ref
	heard   Heard
	now     time.Time
}

// conclude says what has become of a node. It is a function of its argument alone.
func conclude(q question) Conclusion {
	c := Conclusion{Images: map[string]ImageState{}, Faults: q.wanted.Faults}
	images := q.images(c.Images)
	if q.heard.silent(q.now) {
		c.Status, c.Reason = report.Unknown, ReasonSilent
		c.Message = fmt.Sprintf("no report of the agent since %s", q.heard.At.UTC().Format(time.RFC3339))
		return c
	}
	r := q.heard.Report
	if r.Config.Hash == "" && len(r.Config.Rejected) > 0 {
		c.Status, c.Reason, c.Message = report.False, ReasonRejected, "no config is in force: "+r.Config.Rejected[0]
		return c
	}
	for _, t := range []string{report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive} {
		if is := r.Condition(t); is.Status != report.True {
			c.Status, c.Reason, c.Message = report.False, is.Reason, t
			if is.Message != "" {
				c.Message += ": " + is.Message
			}
			return c
		}
	}
	if r.Config.Hash != q.hash && q.now.Sub(q.changed) >= behindAfter {
		c.Status, c.Reason = report.False, ReasonBehind
		c.Message = "the node has an older config in force"
		if len(r.Config.Rejected) > 0 {
			c.Message += ", and rejects the newer one: " + r.Config.Rejected[0]
		}
		return c
	}
	c.Status, c.Reason, c.Message = images.verdict()
	if len(r.Config.Rejected) > 0 {
		c.Message += "; a newer config is rejected: " + r.Config.Rejected[0]
	}
	return c
}

// tally is what has become of all images of a node.
type tally struct {
	ready, all             int
	failed, open, unknowns []string
	done, total            int64
}

// images judges every wanted image, and puts its state into states.
func (q question) images(states map[string]ImageState) tally {
	t := tally{all: len(q.wanted.Images)}
	for _, want := range q.wanted.Images {
		is, found := find(q.heard.Report.Images, want)
		switch {
		case found && is.Phase == report.ImageReady:
			states[want.Name] = ImageReady
			t.ready++
		case found && is.Phase == report.ImageFailed:
			states[want.Name] = ImageFailed
			t.failed = append(t.failed, fmt.Sprintf("%s (%s)", want.Name, is.Reason))
		case want.Digest == "" && q.unknown[spelled(want.Ref)] != "":
			states[want.Name] = ImagePending
			t.unknowns = append(t.unknowns, fmt.Sprintf("%s: %s", want.Name, q.unknown[spelled(want.Ref)]))
		default:
			states[want.Name] = ImagePending
			t.open = append(t.open, want.Name)
		}
		t.done, t.total = t.done+is.BytesDone, t.total+is.BytesTotal
	}
	return t
}

// find is what the report says of an image. One of another digest is not what is wanted.
func find(images []report.Image, want report.WantedImage) (report.Image, bool) {
	for _, is := range images {
		if is.Name == want.Name && (want.Digest == "" || want.Digest == is.Target || want.Digest == is.Digest) {
			return is, true
		}
	}
	return report.Image{}, false
}

func (t tally) verdict() (report.ConditionStatus, string, string) {
	switch {
	case len(t.failed) > 0:
		return report.False, ReasonFailed, "failed: " + strings.Join(t.failed, ", ")
	case len(t.unknowns) > 0:
		return report.False, ReasonUnresolved, "not resolved: " + strings.Join(t.unknowns, "; ")
	case len(t.open) > 0:
		message := fmt.Sprintf("%d of %d; preparing: %s", t.ready, t.all, strings.Join(t.open, ", "))
		if step := t.percent(); step > 0 {
			message += fmt.Sprintf(" (more than %d %% of the bytes)", step)
		}
		return report.False, ReasonPreparing, message
	case t.all == 0:
		return report.True, ReasonReady, "no images are wanted here"
	}
	return report.True, ReasonReady, fmt.Sprintf("%d of %d images", t.ready, t.all)
}

// percent is how much of the bytes is there, rounded down to a step.
func (t tally) percent() int64 {
	if t.total <= 0 {
		return 0
	}
	return min(t.done*100/t.total, 99) / progressStep * progressStep
}
