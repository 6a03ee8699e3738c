package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/cmd/internal/process"
)

const (
	// What the leader asks of the API at most, in requests a second: its writes are transitions of nodes, of which many come at
	// once when a config changes. The same bounds count once more for the Lease and reviews of tokens.
	clientQPS   = 200
	clientBurst = 400
	// headerTimeout is how long a request may take to begin.
	headerTimeout = 5 * time.Second
)

// options are the flags of the coordinator.
type options struct {
	api                         api
	configMap, pod, ip          string
	listen, statusListen        string
	tlsSecret, account, workDir string
	log                         cli.Log
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "hotplate-coordinator",
		Short: "Tell the nodes of a cluster what they should hold, and mark those that do",
		Long: "hotplate-coordinator answers the agents of a cluster: which images their node should hold, by digest, and whether it\n" +
			"may fetch them and restart containerd now. It writes on Nodes what has become of them. Of several replicas one leads.",
		Version: version,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	o.api.bind(flags)
	flags.StringVar(&o.configMap, "config-map", "hotplate-config", "ConfigMap that holds the config")
	flags.StringVar(&o.pod, "pod-name", os.Getenv("POD_NAME"), "name of this replica (default: POD_NAME in the environment)")
	flags.StringVar(&o.ip, "pod-ip", os.Getenv("POD_IP"), "address at which agents reach this replica (default: POD_IP in the environment)")
	flags.StringVar(&o.listen, "listen", ":8443", "address on which the leader answers agents")
	flags.StringVar(&o.statusListen, "status-listen", ":8080", "address of /metrics, /healthz, /readyz and /v1")
	flags.StringVar(&o.tlsSecret, "tls-secret", "", "Secret with tls.crt, tls.key and ca.crt to serve with (default: a CA of its own)")
	flags.StringVar(&o.account, "agent-service-account", "hotplate-agent", "service account of agents")
	flags.StringVar(&o.workDir, "work-dir", filepath.Join(os.TempDir(), "hotplate-coordinator"), "directory for files that need not survive a restart")
	o.log.Bind(flags, "info")
	cmd.AddCommand(newCheck(), newRelease())
	return cmd
}

func (o *options) run(ctx context.Context) error {
	log, err := o.log.Logger(os.Stderr)
	if err != nil {
		return err
	}
	kube.RouteLogs(log)
	process.TightHeap()
	_, port, err := net.SplitHostPort(o.listen)
	switch {
	case err != nil:
		return fmt.Errorf("--listen %q is not host:port: %w", o.listen, err)
	case o.pod == "" || o.ip == "":
		return errors.New("which replica this is is not known; give --pod-name and --pod-ip, or POD_NAME and POD_IP in the environment")
	}
	client, err := o.api.connect()
	if err != nil {
		return err
	}
	urgent, err := o.api.connect()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(o.workDir); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	resolving := &resolving{dir: filepath.Join(o.workDir, "hosts"), log: log}
	server, err := coordinator.NewServer(coordinator.ServerConfig{
		Client: client, Urgent: urgent, Namespace: o.api.namespace, Pod: o.pod, AgentAccount: o.account, ConfigMap: o.configMap, TLSSecret: o.tlsSecret, Log: log,
		URL: "https://" + net.JoinHostPort(o.ip, port), Listen: o.listen, Resolver: resolving.of,
		Source: func(context.Context) (coordinator.ConfigSource, error) {
			return kube.New(kube.Config{Client: client, Namespace: o.api.namespace, ConfigMap: o.configMap, Log: log,
				RunDir: filepath.Join(o.workDir, "run")})
		},
	})
	if err != nil {
		return err
	}
	log.Info("hotplate-coordinator starts", "version", version, "namespace", o.api.namespace, "pod", o.pod)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return serve(ctx, o.statusListen, server.Handler(), log) })
	return g.Wait()
}

// serve answers on an address until ctx ends.
func serve(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics and health (choose another --status-listen): %w", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, WriteTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return coordinator.ServeUntil(ctx, srv, func() error { return srv.Serve(l) })
}
