package build

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushOptions say how to talk to the registry.
type PushOptions struct {
	// CA is a PEM bundle to trust beside the system's authorities. Empty: these alone.
	CA []byte
	// Insecure permits plain HTTP and any certificate.
	Insecure bool
}

// Push uploads the image for all platforms to a reference with a tag, with the credentials of the user's `docker login`,
// and returns the reference with the digest.
func (r *Result) Push(ctx context.Context, ref string, opts PushOptions) (string, error) {
	options := []name.Option{name.StrictValidation}
	if opts.Insecure {
		options = append(options, name.Insecure)
	}
	to, err := name.NewTag(ref, options...)
	if err != nil {
		return "", fmt.Errorf("parse the reference to push to: %w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: opts.Insecure}
	if len(opts.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return "", fmt.Errorf("read the system's CA certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(opts.CA) {
			return "", errors.New("the CA to push with has no certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	err = remote.WriteIndex(to, r.Index, remote.WithContext(ctx), remote.WithTransport(transport),
		remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return to.Context().Digest(r.Digest.String()).String(), nil
}
