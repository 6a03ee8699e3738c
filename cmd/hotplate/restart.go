package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// restartOptions are the flags of restart.
type restartOptions struct {
	address, hostsDir, stateDir, output string
	unit                                string
	dependants                          []string
	soak                                time.Duration
	dryRun, convert, again              bool
	withoutRescue                       bool
}

func newRestart(log *cli.Log) *cobra.Command {
	o := restartOptions{}
	cmd := &cobra.Command{
		Use:   "restart",
		Short: "Make containerd read the hosts directory, with a restart where nothing else will do",
		Long: "restart looks whether the running containerd reads the hosts directory. If not, it sets config_path in the file\n" +
			"that decides, and restarts containerd: only where that is safe, and so that the old configuration comes back by\n" +
			"itself if anything goes wrong, also when this program is killed. Containers keep running. An earlier restart\n" +
			"that did not come to its end is ended first.\n\n" +
			"Where there is no systemd, containerd is told to end, and something else has to start it again. Nothing but this\n" +
			"program puts the old configuration back then, which has to be allowed with --without-rescue.\n\n" +
			"The exit code is 0 when containerd reads the directory, 3 when it is busy and nothing was touched, 1 otherwise.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), log, cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", cli.DefaultAddress, "containerd's socket")
	flags.StringVar(&o.hostsDir, "hosts-dir", cli.DefaultHostsDir, "hosts directory that containerd is to read")
	flags.StringVar(&o.stateDir, "state-dir", cli.DefaultStateDir, "where the backup is kept; the agent's, which must not run but for --dry-run")
	flags.StringVar(&o.unit, "unit", "", "containerd's unit (default: that of its process)")
	flags.StringSliceVar(&o.dependants, "dependants", nil, "`units` that may go down with containerd, and are started again")
	flags.DurationVar(&o.soak, "soak", restart.DefaultSoak, "for how long the restarted containerd is watched")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only say what would be changed, and every check; the agent is asked where it runs")
	flags.BoolVar(&o.convert, "convert-mirrors", false, "take legacy mirrors out of the configuration, which the hosts directory must have instead")
	flags.BoolVar(&o.again, "again", false, "also try what was taken back before")
	flags.BoolVar(&o.withoutRescue, "without-rescue", false, "restart also where there is no systemd, and the rollback depends on "+
		"this program alone")
	bindOutput(cmd, &o.output)
	return cmd
}

func (o *restartOptions) run(ctx context.Context, logFlags *cli.Log, out io.Writer) (err error) {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	log, err := logFlags.Logger(os.Stderr)
	if err != nil {
		return err
	}
	host, err := apply.Open(ctx, apply.Config{HostsDir: o.hostsDir, StateDir: o.stateDir, Log: log})
	switch {
	case errors.Is(err, apply.ErrLocked) && o.dryRun:
		return o.ask(ctx, err, out)
	case errors.Is(err, apply.ErrLocked):
		return fmt.Errorf("%w. If that is the agent, you need not: it restarts containerd itself, as restart.policy in its config "+
			"lets it; hotplate status says what keeps it from that, hotplate restart --dry-run all of it", err)
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	ctrd, err := daemon.Connect(o.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ctrd.Close()) }()
	keeper, err := cli.ConnectKeeper(ctx, o.address, systemd.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keeper.Close()) }()
	prober, err := probe.New(probe.Config{Pull: ctrd.PullImage, Publish: host.PublishTemporary})
	if err != nil {
		return err
	}
	r, err := restart.New(restart.Config{
		Log: log, Systemd: keeper, NoTimer: keeper.NoTimer, WithoutRescue: o.withoutRescue, Daemon: ctrd, Probe: prober.Probe,
		Address: o.address, StateDir: o.stateDir, HostsDir: o.hostsDir, Unit: o.unit, Dependants: o.dependants, Convert: o.convert, Soak: o.soak,
	})
	if err != nil {
		return err
	}
	if o.again && !o.dryRun {
		if err := r.Forgive(); err != nil {
			return err
		}
	}
	if o.dryRun {
		return o.assess(ctx, r, out)
	}
	outcome, err := r.Run(ctx)
	if err != nil {
		return err
	}
	return o.tell(outcome, out)
}

// assess prints what a restart would do.
func (o *restartOptions) assess(ctx context.Context, r *restart.Restarter, out io.Writer) error {
	a, err := r.Assess(ctx)
	if err != nil {
		if o.output == outputText {
			fmt.Fprint(out, checksText(agent.Checks(a.Checks)))
		}
		return err
	}
	return o.show(agent.Assessment(a), out)
}

// ask is assess by the agent on this machine, which has the state directory: locked says so. Its own settings count.
func (o *restartOptions) ask(ctx context.Context, locked error, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, assessTimeout)
	defer cancel()
	body, err := askAgent(ctx, filepath.Join(o.stateDir, agent.SocketName), "/v1/restart")
	if err != nil {
		return fmt.Errorf("%w, or let the agent answer: %w", locked, err)
	}
	var a report.Assessment
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("read the agent's answer (is it of another version?): %w", err)
	}
	return o.show(a, out)
}

// show prints an assessment.
func (o *restartOptions) show(a report.Assessment, out io.Writer) error {
	text := io.Discard
	if o.output == outputJSON {
		if err := encode(out, a); err != nil {
			return err
		}
	} else {
		text = out
	}
	fmt.Fprint(text, checksText(a.Checks))
	if a.Diff != "" {
		fmt.Fprint(text, "\n"+a.Diff)
	}
	switch v := restart.Verdict(a.Verdict); {
	case a.Live:
		fmt.Fprintln(text, "\nnothing to do")
	case v == restart.Refuse:
		fmt.Fprintln(text, "\nit would be refused; nothing would be touched")
		return cli.ErrSilent
	case v == restart.Defer:
		fmt.Fprintln(text, "\nit would be put off; nothing would be touched")
		return cli.ExitError(exitBusy)
	default:
		fmt.Fprintln(text, "\nit would be done")
	}
	return nil
}

const (
	// exitBusy is the exit code that says: try again later.
	exitBusy = 3
	// assessTimeout bounds an answer of the agent, which gives up before.
	assessTimeout = time.Minute
)

// tell prints how it ended.
func (o *restartOptions) tell(outcome restart.Outcome, out io.Writer) error {
	if o.output == outputJSON {
		if err := encode(out, outcome); err != nil {
			return err
		}
	} else {
		fmt.Fprint(out, checksText(agent.Checks(outcome.Checks)))
		fmt.Fprintf(out, "%s: %s\n", outcome.Kind, outcome.Reason)
		if outcome.Downtime > 0 {
			fmt.Fprintf(out, "containerd was away for %s\n", outcome.Downtime.Round(time.Millisecond))
		}
	}
	switch outcome.Kind {
	case restart.NotNeeded, restart.Restarted:
		return nil
	case restart.Deferred:
		return cli.ExitError(exitBusy)
	}
	return cli.ErrSilent
}

func encode(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// checksText writes one line for each check.
func checksText(checks []report.Check) string {
	var b strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&b, "%-6s  %-13s  %s\n", c.Verdict, c.Name, strings.ReplaceAll(c.Detail, "\n", "\n"+strings.Repeat(" ", 23)))
	}
	return b.String()
}
