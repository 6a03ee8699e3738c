package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

type statusOptions struct {
	*plugin
	output
	watch bool
	node  string // empty for all
}

func (p *plugin) newStatus() *cobra.Command {
	o := &statusOptions{plugin: p}
	cmd := &cobra.Command{
		Use:   "status [NODE]",
		Short: "Show nodes and their images, and how far they are",
		Long: "status shows every node that has an agent, and the images that are not Ready there; of one NODE, or with -o wide, all\n" +
			"images. Of one NODE with -o wide it shows the whole report of the agent. With -o json or yaml it prints what the\n" +
			"coordinator that leads says: a list of nodes, or one node with its report.\n\n" +
			"Where the coordinator cannot be asked, it shows what Node objects say. The exit code is 0 whatever the state of nodes is.",
		Example: "  kubectl hotplate status\n  kubectl hotplate status gpu-7 --watch\n  kubectl hotplate status -o json | jq '.[] | select(.ready != \"True\") | .node'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.node = args[0]
			}
			return o.run(cmd.Context())
		},
		ValidArgsFunction: p.completeFirst(p.nodeNames),
	}
	o.bind(cmd, asJSON, asYAML, asWide)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "Show it again whenever it changes")
	return cmd
}

// seen is what was found at one look.
type seen struct {
	nodes []coordinator.NodeStatus
	// note says what is missing.
	note string
}

func (o *statusOptions) look(ctx context.Context, c cluster) (s seen, err error) {
	if o.node != "" {
		is, err := c.node(ctx, o.node)
		return seen{nodes: []coordinator.NodeStatus{is}}, err
	}
	s.nodes, s.note, err = c.statuses(ctx)
	return s, err
}

func (o *statusOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := o.cluster()
	if err != nil {
		return err
	}
	s, err := o.look(ctx, c)
	if err != nil {
		return err
	}
	if o.watch {
		return o.follow(ctx, c, s)
	}
	if s.note != "" {
		fmt.Fprintln(o.ErrOut, "note:", plain(s.note))
	}
	return o.show(o.Out, s)
}

// show prints what was seen.
func (o *statusOptions) show(out io.Writer, s seen) error {
	switch {
	case o.structured() && o.node != "":
		return o.print(out, s.nodes[0])
	case o.structured():
		return o.print(out, s.nodes)
	case len(s.nodes) == 0:
		fmt.Fprintln(out, "no node has an agent that has reported; kubectl hotplate doctor says why")
		return nil
	case o.node != "":
		showNode(out, s.nodes[0], o.how == asWide, o.now())
		return nil
	}
	showNodes(out, s.nodes, o.how == asWide, o.now())
	return nil
}

// showNodes prints all nodes, and the images that are worth it.
func showNodes(out io.Writer, nodes []coordinator.NodeStatus, wide bool, now time.Time) {
	table(out, nodeRows(nodes, now))
	rows := [][]string{{"NODE", "IMAGE", "STATE", "PROGRESS", "BYTES"}}
	if wide {
		rows[0] = append(rows[0], "PRIORITY", "REF", "DIGEST")
	}
	for _, n := range nodes {
		for _, img := range n.Images {
			if !wide && img.State == coordinator.ImageReady {
				continue
			}
			row := []string{n.Node, img.Name, string(img.State), bar(img.Done, img.Total, img.State == coordinator.ImageReady), amount(img.Done, img.Total)}
			if wide {
				row = append(row, fmt.Sprint(img.Priority), img.Ref, report.Short(img.Digest))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		fmt.Fprintln(out)
	}
	table(out, rows)
}

func nodeRows(nodes []coordinator.NodeStatus, now time.Time) [][]string {
	rows := [][]string{{"NODE", "READY", "REASON", "IMAGES", "HEARD", "MESSAGE"}}
	for _, n := range nodes {
		ready := 0
		for _, img := range n.Images {
			if img.State == coordinator.ImageReady {
				ready++
			}
		}
		heard := ago(now, n.Heard)
		if heard == "" {
			heard = "-"
		}
		message := strings.Join(append([]string{n.Message}, n.Faults...), "; ")
		rows = append(rows, []string{n.Node, string(n.Ready), n.Reason, fmt.Sprintf("%d/%d", ready, len(n.Images)), heard, message})
	}
	return rows
}

// showNode prints one node with what its agent says of each image.
func showNode(out io.Writer, n coordinator.NodeStatus, wide bool, now time.Time) {
	table(out, nodeRows([]coordinator.NodeStatus{n}, now))
	rows := [][]string{{"IMAGE", "STATE", "PROGRESS", "BYTES", "RATE", "LEFT", "PHASE", "MESSAGE"}}
	for _, want := range n.Images {
		is, _ := reported(n, want.WantedImage)
		phase := string(is.Phase)
		if is.Reason != "" {
			phase += ", " + is.Reason
		}
		row := []string{want.Name, string(want.State), bar(want.Done, want.Total, want.State == coordinator.ImageReady), amount(want.Done, want.Total),
			"", "", phase, is.Message}
		if is.Rate > 0 {
			row[4], row[5] = report.Rate(is.Rate), report.Left(is.Left)
		}
		rows = append(rows, row)
	}
	if len(rows) > 1 {
		fmt.Fprintln(out)
	}
	table(out, rows)
	if n.Report != nil && (wide || n.Ready != report.True) {
		fmt.Fprintln(out)
	}
	switch {
	case n.Report == nil:
	case wide:
		fmt.Fprint(out, n.Report.Text(now))
	case n.Ready != report.True:
		rows := [][]string{{"CONDITION", "STATUS", "REASON", "MESSAGE"}}
		for _, c := range n.Report.Conditions {
			if c.Status != report.True {
				rows = append(rows, []string{c.Type, string(c.Status), c.Reason, c.Message})
			}
		}
		table(out, rows)
	}
}

// reported is what a node's agent says of an image that it should hold. One of another digest is not what is wanted.
func reported(n coordinator.NodeStatus, want report.WantedImage) (report.Image, bool) {
	if n.Report == nil {
		return report.Image{}, false
	}
	for _, is := range n.Report.Images {
		if is.Name == want.Name && (want.Digest == "" || want.Digest == is.Target || want.Digest == is.Digest) {
			return is, true
		}
	}
	return report.Image{}, false
}

// news is what a person wants to be shown again: all but when each node was heard.
func news(s seen) string {
	nodes := make([]coordinator.NodeStatus, len(s.nodes))
	for i, n := range s.nodes {
		n.Heard = time.Time{}
		if n.Report != nil {
			r := *n.Report
			r.Time = time.Time{}
			n.Report = &r
		}
		nodes[i] = n
	}
	text, err := json.Marshal(nodes)
	if err != nil {
		return err.Error() // they came as JSON
	}
	return string(text) + s.note
}
