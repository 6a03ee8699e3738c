package kube

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// What the keys of the ConfigMap may hold in which the leading coordinator says where it is, in bytes.
const (
	maxURL = 1 << 10
	maxCA  = 64 << 10
)

// Coordinator is where the leading coordinator is, as it says itself. Two of them can be compared.
type Coordinator struct {
	// URL is https://host:port.
	URL string
	// CA is PEM: what its certificate is verified against.
	CA string
}

// ErrNoCoordinator means that none has said where it is.
var ErrNoCoordinator = errors.New("no coordinator has said yet where it is")

// Finder knows where the leading coordinator is. Its methods may be called from any goroutine.
type Finder struct {
	watcher
	coordinator *object
	moved       chan struct{} // capacity 1
}

// NewFinder returns a Finder that watches already.
func NewFinder(client kubernetes.Interface, namespace string, log *slog.Logger) *Finder {
	f := &Finder{watcher: newWatcher(client, namespace, log), moved: make(chan struct{}, 1)}
	f.coordinator = f.watch(ref{configMap, report.CoordinatorName}, f.moved)
	return f
}

// Moved tells that what Coordinator returns may have changed.
func (f *Finder) Moved() <-chan struct{} { return f.moved }

// Coordinator returns where the leading coordinator is. An error says why that is not known.
func (f *Finder) Coordinator() (Coordinator, error) {
	d, known, err := f.coordinator.get()
	switch {
	case !known && err != nil:
		return Coordinator{}, fmt.Errorf("read %s: %w", f.coordinator.ref, err)
	case d == nil:
		return Coordinator{}, ErrNoCoordinator
	}
	c, err := parseCoordinator(d)
	if err != nil {
		return Coordinator{}, fmt.Errorf("%s: %w", f.coordinator.ref, err)
	}
	return c, nil
}

func parseCoordinator(d data) (Coordinator, error) {
	if len(d[report.URLKey]) > maxURL || len(d[report.CAKey]) > maxCA {
		return Coordinator{}, fmt.Errorf("url or ca.crt is longer than %d or %d bytes", maxURL, maxCA)
	}
	c := Coordinator{URL: string(d[report.URLKey]), CA: string(d[report.CAKey])}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Coordinator{}, errors.New("url is not https://host:port")
	}
	if !x509.NewCertPool().AppendCertsFromPEM(d[report.CAKey]) {
		return Coordinator{}, errors.New("ca.crt holds no certificate")
	}
	return c, nil
}
