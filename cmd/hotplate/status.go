package main

import (
	"bytes"
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
	// maxError bounds what is shown of an answer that is an error.
	maxError = 4 << 10
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
	body, err := askAgent(ctx, socket, "/v1/status")
	if err != nil {
		return err
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

// askAgent asks the agent for a document. Where it answers with an error, that is in ours.
func askAgent(ctx context.Context, socket, path string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s (is it running, are you root, is --state-dir its own?): %w", socket, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the agent at %s: %s: %s", socket, resp.Status, bytes.TrimSpace(body[:min(len(body), maxError)]))
	}
	return body, nil
}
