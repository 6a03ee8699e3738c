package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// namespaceFile is where the kubelet says in which namespace a pod is.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// What an agent asks of the API at most, in requests a second. It watches a few objects, and no more.
const (
	clientQPS   = 5
	clientBurst = 20
)

// InCluster returns a client of the API server of the cluster that this pod runs in.
func InCluster(userAgent string) (kubernetes.Interface, error) {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API (outside of a cluster use --config): %w", err)
	}
	// A proxy in the environment is for registries; the API of one's own cluster is reached as every pod reaches it.
	cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	return NewClient(cfg, userAgent)
}

// NewClient returns a client for cfg with the bounds of an agent.
func NewClient(cfg *rest.Config, userAgent string) (kubernetes.Interface, error) {
	return Connect(cfg, userAgent, clientQPS, clientBurst)
}

// Connect returns a client for cfg that asks at most so many requests a second.
func Connect(cfg *rest.Config, userAgent string, qps float32, burst int) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = userAgent
	cfg.QPS, cfg.Burst = qps, burst
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect with the Kubernetes API: %w", err)
	}
	return client, nil
}

// OwnNamespace is the one that this pod runs in.
func OwnNamespace() (string, error) {
	if name := os.Getenv("POD_NAMESPACE"); name != "" {
		return name, nil
	}
	name, err := os.ReadFile(namespaceFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("which namespace is ours is not known; give --namespace, or POD_NAMESPACE in the environment")
	case err != nil:
		return "", fmt.Errorf("find our namespace (or give --namespace): %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}
