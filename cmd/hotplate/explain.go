package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

func newExplain() *cobra.Command {
	var hostsDir, version string
	cmd := &cobra.Command{
		Use:   "explain IMAGE",
		Short: "Say where containerd will look for an image, in order, and what it silently does",
		Long: "explain reads a hosts directory as the given version of containerd does, and asks nobody. It prints the URLs in\n" +
			"the order in which they are tried, what proves each host, and whether and when the registry that the image names\n" +
			"is contacted. The exit code is 1 when every pull fails.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return explain(cmd.OutOrStdout(), hostsDir, version, args[0])
		},
	}
	cmd.Flags().StringVar(&hostsDir, "hosts-dir", cli.DefaultHostsDir, "hosts directory to read")
	cmd.Flags().StringVar(&version, "containerd-version", "", "containerd whose rules apply (default: the newest known)")
	return cmd
}

func explain(out io.Writer, hostsDir, version, image string) error {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return fmt.Errorf("image %q: %w", image, err)
	}
	v, err := parseVersion(version)
	if err != nil {
		return err
	}
	root, err := filepath.Abs(hostsDir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the hosts directory: %w", err)
	}
	res, err := hostconfig.ExplainAt(os.DirFS(root), root, reference.Domain(ref), v)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "image:    %s\n", ref)
	printResolution(out, res, root, ref)
	if res.Failure != "" {
		return fmt.Errorf("every pull of %s fails: see FAILS above", res.Host)
	}
	return nil
}

func parseVersion(s string) (hostconfig.Version, error) {
	if s == "" {
		return hostconfig.Version{}, nil
	}
	v, err := hostconfig.ParseVersion(s)
	if err != nil {
		return v, fmt.Errorf("--containerd-version: %w", err)
	}
	return v, nil
}

func printResolution(out io.Writer, res hostconfig.Resolution, root string, ref reference.Named) {
	if res.Dir == "" {
		fmt.Fprintf(out, "read:     nothing: no directory for %s in %s, and no _default\n", res.Host, root)
	} else {
		fmt.Fprintf(out, "read:     %s\n", filepath.Join(root, res.Dir, hostconfig.HostsTOML))
	}
	for _, dir := range res.Shadowed {
		fmt.Fprintf(out, "ignored:  %s (containerd stops at the first that exists)\n", filepath.Join(root, dir))
	}
	if res.Rejected != "" {
		fmt.Fprintf(out, "rejected: %s\n", res.Rejected)
	}
	if res.Failure != "" {
		fmt.Fprintf(out, "FAILS:    every pull: %s\n", res.Failure)
	}
	for i, h := range res.Hosts {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, manifestURL(h, ref))
		printHost(out, h)
	}
	if len(res.Hosts) > 0 {
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "upstream: %s\n", res.UpstreamWhen)
	if len(res.Warnings) > 0 {
		fmt.Fprintln(out)
	}
	for _, w := range res.Warnings {
		fmt.Fprintln(out, w)
	}
}

// manifestURL is the first URL that containerd asks of a host. One that may not resolve is asked for no tag, only for what
// another host has found behind it.
func manifestURL(h hostconfig.ResolvedHost, ref reference.Named) string {
	tag := ""
	switch r := ref.(type) {
	case reference.Digested:
		tag = r.Digest().String()
	case reference.Tagged:
		tag = r.Tag()
		if !slices.Contains(h.Capabilities, hostconfig.CapabilityResolve) {
			tag = "<digest of " + tag + ">"
		}
	}
	return fmt.Sprintf("%s/%s/manifests/%s", h.URL, reference.Path(ref), tag)
}

func printHost(out io.Writer, h hostconfig.ResolvedHost) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "   %s\t%s\n", name, value)
		}
	}
	var caps []string
	for _, c := range h.Capabilities {
		caps = append(caps, string(c))
	}
	row("may", strings.Join(caps, ", "))
	trust := "the node's CA roots"
	if len(h.CA) > 0 {
		trust += " and " + strings.Join(h.CA, ", ")
	}
	switch {
	case h.Scheme == "http":
		trust = "anybody: HTTP proves nothing"
	case h.SkipVerify:
		trust = "ANY certificate (skip_verify)"
	}
	row("trusts", trust)
	for _, pair := range h.Client {
		row("presents", strings.TrimSuffix(pair[0]+" with key "+pair[1], " with key "))
	}
	row("sends", strings.Join(h.Headers, ", "))
	row("dial timeout", h.DialTimeout.String())
	if h.HTTPFallback {
		row("falls back", "to HTTP where the host speaks no HTTPS")
	}
}
