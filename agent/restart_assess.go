package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// assess says what a restart would do now. It waits until none is under way, as long as ctx lets it. It may be called by any
// goroutine.
func (r *restarts) assess(ctx context.Context) (report.Assessment, error) {
	settings := r.need.facts().settings
	if settings == nil {
		return report.Assessment{}, errors.New("the agent has no config in force yet; see hotplate status")
	}
	if !r.enter(ctx) {
		return report.Assessment{}, fmt.Errorf("a restart of containerd is under way; see hotplate status: %w", ctx.Err())
	}
	defer r.leave()
	t, err := r.restarter(ctx, *settings)
	if err != nil {
		return report.Assessment{}, err
	}
	a, err := t.Assess(ctx)
	if err != nil {
		return report.Assessment{}, err
	}
	return Assessment(a), nil
}

// Assessment is a for whoever asks, without secrets.
func Assessment(a restart.Assessment) report.Assessment {
	is := report.Assessment{Verdict: string(a.Verdict()), Live: a.Live, Checks: Checks(a.Checks)}
	if !a.Edit.IsZero() {
		is.Diff = a.Edit.Diff()
	}
	return is
}

// Checks are all for whoever asks.
func Checks(all []restart.Check) []report.Check {
	var out []report.Check
	for _, c := range all {
		out = append(out, report.Check{Name: c.Name, Verdict: string(c.Verdict), Detail: c.Detail})
	}
	return out
}
