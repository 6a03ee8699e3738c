package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// conditionTypes are all the conditions of a node, in the order in which a person should read them.
func conditionTypes() []string {
	return []string{report.ConfigValid, report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive,
		report.CertificatesValid, report.ImagesReady}
}

// view is what the agent knows, as a report without Images, which the image worker keeps. Whoever asks gets a copy. It
// logs every transition, so that the log alone tells the node's state.
type view struct {
	log *slog.Logger
	// news is called, with the lock held, when a condition has another status or reason.
	news func()

	mu sync.Mutex
	r  report.NodeReport // guarded by mu
}

func newView(base report.NodeReport, log *slog.Logger) *view {
	v := &view{log: log, news: func() {}, r: base}
	for _, t := range conditionTypes() {
		v.r.Conditions = append(v.r.Conditions,
			report.Condition{Type: t, Status: report.Unknown, Reason: report.Starting, LastTransitionTime: time.Now()})
	}
	return v
}

// Report returns a copy of what is known now, which is the caller's.
func (v *view) Report() report.NodeReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.r
	r.Time = time.Now()
	r.Conditions = slices.Clone(r.Conditions)
	r.Registries = slices.Clone(r.Registries)
	for i := range r.Registries {
		r.Registries[i].Mirrors = slices.Clone(r.Registries[i].Mirrors)
	}
	r.Certificates = slices.Clone(r.Certificates)
	r.Config.Rejected = slices.Clone(r.Config.Rejected)
	return r
}

// update changes the report. The function may replace slices but must not change what they hold.
func (v *view) update(f func(r *report.NodeReport)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.r)
	v.conclude()
}

// set states a condition, and logs it when it says something new.
func (v *view) set(t string, status report.ConditionStatus, reason, message string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.r.Conditions, func(c report.Condition) bool { return c.Type == t })
	old := v.r.Conditions[i]
	c := report.Condition{Type: t, Status: status, Reason: reason, Message: message,
		LastTransitionTime: old.LastTransitionTime}
	if old.Status != status {
		c.LastTransitionTime = time.Now()
	}
	if c == old {
		return
	}
	v.r.Conditions = slices.Clone(v.r.Conditions)
	v.r.Conditions[i] = c
	level := slog.LevelInfo
	if status == report.False {
		level = slog.LevelWarn
	}
	if t == report.ConfigValid && status == report.False {
		level = slog.LevelError
	}
	v.log.Log(context.Background(), level, t, "status", string(status), "reason", reason, "message", message)
	v.conclude()
	if old.Status != status || old.Reason != reason {
		v.news()
	}
}

// conclude derives Ready. A rejected newer config does not make a node unready: the last good one still serves, and a
// typing error must not empty a cluster. The caller holds mu.
func (v *view) conclude() {
	ready := true
	for _, t := range []string{report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive, report.ImagesReady} {
		ready = ready && v.r.Condition(t).Status == report.True
	}
	if ready == v.r.Ready {
		return
	}
	v.r.Ready = ready
	if ready {
		v.log.Info("node is Ready", "images", v.r.Condition(report.ImagesReady).Message)
	} else {
		v.log.Warn("node is not Ready any more")
	}
}

// mirrors takes what was seen of each registry's mirrors, and logs what is new.
func (v *view) mirrors(byRegistry map[string][]report.Mirror) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.r.Registries = slices.Clone(v.r.Registries)
	for i := range v.r.Registries {
		reg := &v.r.Registries[i]
		old := reg.Mirrors
		reg.Mirrors = byRegistry[reg.Host]
		for _, m := range reg.Mirrors {
			if slices.Contains(old, m) {
				continue
			}
			level := slog.LevelInfo
			if !m.Reachable {
				level = slog.LevelWarn
			}
			v.log.Log(context.Background(), level, "mirror", "registry", reg.Host, "url", m.URL, "reachable", m.Reachable,
				"answer", m.Message, "oldAndNewCA", m.Overlap)
		}
	}
}
