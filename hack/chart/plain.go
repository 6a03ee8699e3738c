package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/hotplate-dev/hotplate/hack/tools"
)

const plainHead = `# hotplate with the chart's default values, rendered by go run ./hack/chart. To change anything, use the chart.
#
#   kubectl apply --server-side -f install.yaml
#
# It has no config: kubectl --namespace hotplate create configmap hotplate-config --from-file=config.yaml
# To remove it, put the nodes back first; see docs/install.md.
apiVersion: v1
kind: Namespace
metadata:
  name: hotplate
  labels:
    # Agents are on the nodes' network and mount directories of the nodes.
    pod-security.kubernetes.io/enforce: privileged
`

// helmLabels are lines that say that helm owns an object.
var helmLabels = regexp.MustCompile(`(?m)^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`)

// blankEnd is the empty line that helm puts before the next object.
var blankEnd = regexp.MustCompile(`\n(\n---\n)`)

// ensureHelm returns the path of helm, which is built if it is missing.
func ensureHelm(ctx context.Context) (string, error) {
	b, err := tools.NewBuilder(tools.Config{Progress: func(line string) { fmt.Fprintln(os.Stderr, line) }})
	if err != nil {
		return "", err
	}
	dir, err := b.Ensure(ctx, "helm")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "helm"), nil
}

// renderPlain renders the chart as it will be with this schema.
func renderPlain(ctx context.Context, helm string, schema []byte) (_ []byte, err error) {
	dir, err := os.MkdirTemp("", "hotplate-chart-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	chart := filepath.Join(dir, "chart")
	if err := os.CopyFS(chart, os.DirFS(chartDir)); err != nil {
		return nil, fmt.Errorf("copy the chart: %w", err)
	}
	if err := os.WriteFile(filepath.Join(chart, "values.schema.json"), schema, 0o600); err != nil {
		return nil, err
	}
	out, err := runHelm(ctx, helm, dir, "template", "hotplate", chart, "--namespace", "hotplate", "--no-hooks")
	if err != nil {
		return nil, err
	}
	out = blankEnd.ReplaceAll(helmLabels.ReplaceAll(out, nil), []byte("$1"))
	return append([]byte(plainHead), out...), nil
}

// runHelm runs helm with a home of its own below dir. The error has what it said.
func runHelm(ctx context.Context, helm, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, helm, args...)
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "HELM_CACHE_HOME=" + dir, "HELM_CONFIG_HOME=" + dir,
		"HELM_DATA_HOME=" + dir, "HELM_NO_PLUGINS=1", "KUBECONFIG=/dev/null"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("helm %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
