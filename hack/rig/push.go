package rig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushOptions say how to talk to the registry.
type PushOptions struct {
	// CA is the PEM bundle to trust. Empty: the system's.
	CA []byte
	// Username and Password, if Username is set.
	Username, Password string
	// Insecure permits plain HTTP and any certificate.
	Insecure bool
	// Dial connects to the registry. Nil: from here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// pushJobs is how many blobs are uploaded at once.
const pushJobs = 2

// remote returns the options for go-containerregistry and a function that closes the connections.
func (o PushOptions) remote(ctx context.Context) ([]remote.Option, func(), error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	if o.Dial != nil {
		transport.DialContext = o.Dial
	}
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: o.Insecure}
	if len(o.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, nil, errors.New("the CA to push with has no certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(transport), remote.WithJobs(pushJobs),
	}
	if o.Username != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: o.Username, Password: o.Password}))
	}
	return options, transport.CloseIdleConnections, nil
}

func (o PushOptions) parse(ref string) (name.Reference, error) {
	options := []name.Option{name.StrictValidation}
	if o.Insecure {
		options = append(options, name.Insecure)
	}
	r, err := name.ParseReference(ref, options...)
	if err != nil {
		return nil, fmt.Errorf("parse the reference to push to: %w", err)
	}
	return r, nil
}

// Push uploads the image to ref and returns the digest of its manifest.
func Push(ctx context.Context, ref string, img v1.Image, opts PushOptions) (digest string, err error) {
	to, err := opts.parse(ref)
	if err != nil {
		return "", err
	}
	options, done, err := opts.remote(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	if err := remote.Write(to, img, options...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	h, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return h.String(), nil
}

// PushIndex uploads an index of images, each for the platform that its configuration names, to ref and returns the
// digest of the index.
func PushIndex(ctx context.Context, ref string, imgs []v1.Image, opts PushOptions) (digest string, err error) {
	to, err := opts.parse(ref)
	if err != nil {
		return "", err
	}
	index := v1.ImageIndex(empty.Index)
	for _, img := range imgs {
		cfg, err := img.ConfigFile()
		if err != nil {
			return "", fmt.Errorf("push %s: %w", ref, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}},
		})
	}
	options, done, err := opts.remote(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	if err := remote.WriteIndex(to, index, options...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	h, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return h.String(), nil
}
