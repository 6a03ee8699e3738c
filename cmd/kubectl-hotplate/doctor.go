package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

type doctorOptions struct {
	*plugin
	output
}

func (p *plugin) newDoctor() *cobra.Command {
	o := &doctorOptions{plugin: p}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with hotplate in this cluster, and what to do",
		Long: "doctor looks at the coordinator, the agents, the config, the nodes and what they report, and says what is wrong, each with\n" +
			"what to do. It changes nothing. The exit code is 1 when something is wrong; notes alone leave it 0. What it may not\n" +
			"look at, it names.",
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.bind(cmd, asJSON, asYAML)
	return cmd
}

// finding is one thing that a person should know.
type finding struct {
	// What is wrong, in few words that are the same for all nodes, and Detail what the first node, or an object, says of it.
	What   string   `json:"what"`
	Detail string   `json:"detail,omitempty"`
	Nodes  []string `json:"nodes,omitempty"`
	// Do is what to do about it, for the first node.
	Do string `json:"do,omitempty"`
	// Note says that it need not be wrong.
	Note bool `json:"note,omitempty"`
}

// findings are all of them. What is the same of several nodes is one, with the detail and the advice of the first.
type findings []finding

func (f *findings) add(is finding) {
	i := slices.IndexFunc(*f, func(o finding) bool { return o.What == is.What && o.Note == is.Note })
	if i < 0 || len(is.Nodes) == 0 {
		*f = append(*f, is)
		return
	}
	for _, node := range is.Nodes {
		if !slices.Contains((*f)[i].Nodes, node) {
			(*f)[i].Nodes = append((*f)[i].Nodes, node)
		}
	}
}

// wrong adds what is wrong with a node, or with the whole where node is empty.
func (f *findings) wrong(node, what, detail, do string) {
	is := finding{What: what, Detail: detail, Do: do}
	if node != "" {
		is.Nodes = []string{node}
	}
	f.add(is)
}

func (o *doctorOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := o.cluster()
	if err != nil {
		return err
	}
	e := c.examine(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	all := e.diagnose()
	if o.structured() {
		err = o.print(o.Out, all)
	} else {
		show(o.Out, all)
	}
	if err != nil {
		return err
	}
	wrong := 0
	for _, f := range all {
		if !f.Note {
			wrong++
		}
	}
	if wrong == 0 {
		fmt.Fprintf(o.ErrOut, "nothing is wrong: %s leads and hears %s\n", e.leader, count(len(e.heard), "node"))
		return nil
	}
	fmt.Fprintf(o.ErrOut, "%s wrong\n", count(wrong, "thing"))
	return errSilent
}

// show prints what is wrong first.
func show(out io.Writer, all findings) {
	slices.SortStableFunc(all, func(a, b finding) int {
		switch {
		case a.Note == b.Note:
			return 0
		case b.Note:
			return -1
		}
		return 1
	})
	for _, f := range all {
		kind := "WRONG"
		if f.Note {
			kind = "NOTE "
		}
		what := f.What
		if len(f.Nodes) > 0 {
			what = fmt.Sprintf("%s (%s)", what, few(f.Nodes))
		}
		fmt.Fprintf(out, "%s  %s\n", kind, plain(what))
		if f.Detail != "" {
			fmt.Fprintf(out, "       %s\n", plain(f.Detail))
		}
		if f.Do != "" {
			fmt.Fprintf(out, "       do: %s\n", plain(f.Do))
		}
	}
}
