package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
)

const (
	statusTimeout = 10 * time.Second
	// maxReport bounds what is read of the agent's answer, in bytes.
	maxReport = 16 << 20
)

func newStatus() *cobra.Command {
	var stateDir, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this machine says of the node",
		Long: "status asks the agent on this machine over its socket. The exit code is 0 when the agent answers, Ready or\n" +
			"not; programs read .ready of --output json.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status(cmd.Context(), filepath.Join(stateDir, agent.SocketName), output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&stateDir, "state-dir", cli.DefaultStateDir, "the agent's state directory")
	bindOutput(cmd, &output)
	return cmd
}

func status(ctx context.Context, socket, output string, out io.Writer) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the agent at %s (is it running, are you root, is --state-dir its own?): %w", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the agent at %s: %s", socket, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if output == outputJSON {
		_, err = out.Write(body)
		return err
	}
	var r report.NodeReport
	if err := json.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("read the agent's answer (is it of another version?): %w", err)
	}
	_, err = io.WriteString(out, r.Text(time.Now()))
	return err
}
