package main

import (
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/hotplate-dev/hotplate/agent/kube"
)

// api is which Kubernetes API is asked, and for which namespace.
type api struct{ kubeconfig, namespace string }

func (a *api) bind(flags *pflag.FlagSet) {
	flags.StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig file (default: the service account of this pod)")
	flags.StringVar(&a.namespace, "namespace", "", "hotplate's own namespace (default: that of this pod)")
}

// connect finds the namespace and returns a client.
func (a *api) connect() (kubernetes.Interface, error) {
	if a.namespace == "" {
		var err error
		if a.namespace, err = kube.OwnNamespace(); err != nil {
			return nil, err
		}
	}
	cfg, err := rest.InClusterConfig()
	if a.kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", a.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API (outside of a cluster give --kubeconfig): %w", err)
	}
	return kube.Connect(cfg, "hotplate-coordinator/"+version, clientQPS, clientBurst)
}
