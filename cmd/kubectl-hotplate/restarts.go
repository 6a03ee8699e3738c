package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

type restartsOptions struct {
	*plugin
	output
	last int
}

func (p *plugin) newRestarts() *cobra.Command {
	o := &restartsOptions{plugin: p}
	cmd := &cobra.Command{
		Use:   "restarts",
		Short: "Show which nodes restart containerd, which wait for it and why, and how the last ones ended",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },

		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.bind(cmd, asJSON, asYAML)
	cmd.Flags().IntVar(&o.last, "last", 10, "How many restarts that have ended to show")
	return cmd
}

// restarts is what -o json prints.
type restarts struct {
	coordinator.Rollout
	// PausedByPerson is what was said with pause; empty if nothing.
	PausedByPerson string `json:"pausedByPerson,omitempty"`
	// Releasing says that every node is asked to become as it was before hotplate.
	Releasing bool             `json:"releasing,omitempty"`
	Waiting   []waitingRestart `json:"waiting,omitempty"`
	Ended     []endedRestart   `json:"ended,omitempty"`
}

// waitingRestart is a node whose containerd has to be restarted.
type waitingRestart struct {
	Node    string    `json:"node"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"`
}

// endedRestart is a restart that one node has made.
type endedRestart struct {
	Node string `json:"node"`
	report.RestartRecord
}

func (o *restartsOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := o.cluster()
	if err != nil {
		return err
	}
	r, note, err := c.restarts(ctx)
	if err != nil {
		return err
	}
	r.Ended = r.Ended[:min(len(r.Ended), max(o.last, 0))]
	if note != "" {
		fmt.Fprintln(o.ErrOut, "note:", plain(note))
	}
	if o.structured() {
		return o.print(o.Out, r)
	}
	r.show(o.Out, o.now())
	return nil
}

// restarts is what the ConfigMap says, which is there without a leader too, and what nodes have reported; note says what is missing.
func (c cluster) restarts(ctx context.Context) (r restarts, note string, err error) {
	is, rollout, err := c.rollout(ctx)
	if err != nil {
		return r, "", err
	}
	r = restarts{Rollout: rollout, PausedByPerson: is.Annotations[coordinator.PauseAnnotation], Releasing: is.Annotations[coordinator.ReleaseAnnotation] != ""}
	nodes, err := c.heard(ctx)
	switch {
	case err != nil && is.Name == "":
		return r, "", err // hotplate is not there
	case err != nil:
		return r, "which nodes wait, and how restarts ended, is not known: " + hint(err), nil
	}
	if len(nodes) > maxReports {
		note = fmt.Sprintf("only the first %d of %d nodes were asked how restarts ended", maxReports, len(nodes))
	}
	reports, err := c.reports(ctx, nodes)
	if err != nil {
		note = "not every node's report could be had: " + hint(err)
	}
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		r.add(name, *reports[name].Report)
	}
	slices.SortStableFunc(r.Ended, func(a, b endedRestart) int { return b.Time.Compare(a.Time) })
	slices.SortStableFunc(r.Waiting, func(a, b waitingRestart) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Node, b.Node)) })
	return r, note, nil
}

func (r *restarts) add(node string, is report.NodeReport) {
	for _, record := range is.Restart.Records {
		r.Ended = append(r.Ended, endedRestart{node, record})
	}
	live := is.Condition(report.HostsLive)
	_, holds := r.Holders[node]
	if live.Status == report.True || holds {
		return
	}
	switch live.Reason {
	case report.RestartNeeded, report.RestartForbidden, report.OutsideWindow, report.RestartDeferred, report.WaitsForSlot, report.RestartRefused,
		report.Restarting, report.RolledBack, report.RestartFailed:
		r.Waiting = append(r.Waiting, waitingRestart{Node: node, Reason: live.Reason, Message: live.Message, Since: live.LastTransitionTime})
	}
}

func (r restarts) show(out io.Writer, now time.Time) {
	if r.Releasing {
		fmt.Fprintln(out, "every node is being put back as it was before hotplate: no restarts")
	}
	if r.PausedByPerson != "" {
		fmt.Fprintf(out, "paused by a person: %s\n", plain(r.PausedByPerson))
	}
	if r.Paused != nil {
		fmt.Fprintf(out, "stopped %s ago because of %s: %s\n", ago(now, r.Paused.Time), r.Paused.Node, plain(r.Paused.Reason))
	}
	if r.PausedByPerson != "" || r.Paused != nil {
		fmt.Fprintln(out, "kubectl hotplate resume lets them go on")
	}
	rows := [][]string{{"HAS THE LEAVE", "FOR", "BEGUN"}}
	for _, node := range slices.Sorted(maps.Keys(r.Holders)) {
		begun := "not yet"
		if r.Holders[node].Held {
			begun = "yes"
		}
		rows = append(rows, []string{node, ago(now, r.Holders[node].Since), begun})
	}
	section(out, rows, "no node has the leave to restart containerd")
	rows = [][]string{{"NOT RESTARTED", "SINCE", "REASON", "MESSAGE"}}
	for _, w := range r.Waiting {
		rows = append(rows, []string{w.Node, ago(now, w.Since), w.Reason, w.Message})
	}
	section(out, rows, "no other node needs a restart, as far as is known")
	rows = [][]string{{"ENDED", "NODE", "AGO", "AWAY FOR", "REASON"}}
	for _, e := range r.Ended {
		how, away := e.How, ""
		if e.Rescued {
			how += " by the node itself"
		}
		if e.Downtime > 0 {
			away = e.Downtime.Round(time.Millisecond).String()
		}
		rows = append(rows, []string{how, e.Node, ago(now, e.Time), away, e.Reason})
	}
	section(out, rows, "no restart has ended, as far as is known")
}

// section writes a table, or what to say in its place.
func section(out io.Writer, rows [][]string, none string) {
	if len(rows) < 2 {
		fmt.Fprintln(out, none)
		return
	}
	fmt.Fprintln(out)
	table(out, rows)
	fmt.Fprintln(out)
}
