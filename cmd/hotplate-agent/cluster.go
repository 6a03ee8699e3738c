package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/agent/link"
)

// defaultToken is where the chart has the kubelet put the token for the coordinator.
const defaultToken = "/var/run/secrets/hotplate.dev/coordinator/token"

// inCluster are the flags of an agent that runs in a cluster.
type inCluster struct {
	configMap, namespace, runDir, token string
}

func (c *inCluster) bind(flags *pflag.FlagSet) {
	flags.StringVar(&c.configMap, "config-map", "", "ConfigMap with the config, instead of a file: the agent runs in a cluster")
	flags.StringVar(&c.namespace, "namespace", "", "namespace of the ConfigMap and of all that it names (default: $POD_NAMESPACE, or the pod's own)")
	flags.StringVar(&c.runDir, "run-dir", "/run/hotplate", "directory on a tmpfs of the host, for what the Kubernetes API said last, with Secrets")
	flags.StringVar(&c.token, "coordinator-token", defaultToken, "file with the token for the coordinator; empty: there is no coordinator")
}

// cluster is what an agent has of its cluster. A nil one is none.
type cluster struct {
	client    kubernetes.Interface
	namespace string
	finder    *kube.Finder // nil without a coordinator
	link      *link.Link   // likewise
}

// connect finds the cluster, or returns nil where there is none.
func (o *options) connect(log *slog.Logger) (*cluster, error) {
	if o.cluster.configMap == "" {
		return nil, nil
	}
	kube.RouteLogs(log)
	c := &cluster{namespace: o.cluster.namespace}
	var err error
	if c.namespace == "" {
		if c.namespace, err = kube.OwnNamespace(); err != nil {
			return nil, err
		}
	}
	if c.client, err = kube.InCluster("hotplate-agent/" + version); err != nil {
		return nil, err
	}
	if o.cluster.token == "" {
		return c, nil
	}
	c.finder = kube.NewFinder(c.client, c.namespace, log)
	c.link, err = link.New(link.Config{Moved: c.finder.Moved(), TokenFile: o.cluster.token, Log: log, Where: func() (url, ca string, err error) {
		at, err := c.finder.Coordinator()
		return at.URL, at.CA, err
	}})
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) close() error {
	if c == nil || c.finder == nil {
		return nil
	}
	return c.finder.Close()
}

// coordinator is nil without one.
func (c *cluster) coordinator() agent.Coordinator {
	if c == nil || c.link == nil {
		return nil
	}
	return c.link
}

// source is where the config comes from.
type source interface {
	agent.ConfigSource
	Close() error
}

// newSource opens the ConfigMap or the file, and returns what reports call it.
func (o *options) newSource(c *cluster, log *slog.Logger) (source, string, error) {
	if c == nil {
		s, err := config.NewFileSource(o.config, log)
		return s, o.config, err
	}
	s, err := kube.New(kube.Config{Client: c.client, Namespace: c.namespace, ConfigMap: o.cluster.configMap, RunDir: o.cluster.runDir,
		Log: log})
	if err != nil {
		return nil, "", err
	}
	return s, s.String(), nil
}

// rest takes back what the agent did, and waits until the coordinator wants the node again.
func (o *options) rest(ctx context.Context, c *cluster, log *slog.Logger) error {
	return agent.Rest(ctx, agent.RestConfig{
		Node: o.node, Version: version, Listen: o.listen, Coordinator: c.coordinator(), Log: log,
		Release: func(ctx context.Context) error {
			out := &logLines{log: log}
			return errors.Join(o.uninstall(ctx, out), kube.Forget(o.cluster.runDir))
		},
	})
}

// logLines logs what is written to it, line by line. It is for one goroutine.
type logLines struct {
	log  *slog.Logger
	rest []byte
}

func (l *logLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		n, line, err := bufio.ScanLines(l.rest, false)
		if err != nil || n == 0 {
			return len(p), err
		}
		l.log.Info("released", "done", string(bytes.TrimSpace(line)))
		l.rest = l.rest[n:]
	}
}

// nodeName is the name of the node in reports, which in a cluster is that of its Node.
func nodeName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find this host's name (or give --node-name): %w", err)
	}
	return name, nil
}
