package fetch

import (
	"context"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
)

// Hosts reads the registry hosts of a hosts directory (certs.d) as containerd does, at every call; an empty hostsDir is
// no directory. creds gives user and secret for the registry that the reference names, such as docker.io, at the host
// that is really asked, such as registry-1.docker.io or harbor.example.com:8443: two registries may be two projects of
// one host, each with an account of its own. An empty user with a secret means a long-lived token, both empty means no
// credentials. creds may be nil. The proxy is taken from the environment.
func Hosts(hostsDir, userAgent string,
	creds func(registry, host string) (user, secret string, err error)) docker.RegistryHosts {
	return func(registry string) ([]docker.RegistryHost, error) {
		opts := config.HostOptions{
			UpdateClient:   tuneClient,
			AuthorizerOpts: []docker.AuthorizerOpt{docker.WithAuthHeader(http.Header{"User-Agent": {userAgent}})},
		}
		if creds != nil {
			opts.Credentials = func(host string) (string, string, error) { return creds(registry, host) }
		}
		if hostsDir != "" {
			opts.HostDir = config.HostDirFromRoot(hostsDir)
		}
		return config.ConfigureHosts(quiet(context.Background()), opts)(registry)
	}
}

// tuneClient tunes the transport before containerd may wrap it, see tuned, and bounds what comes over it: the authorizer
// asks for tokens with this client. One that has a header of its own is brought here a second time.
func tuneClient(c *http.Client) error {
	if t, ok := c.Transport.(*http.Transport); ok {
		tune(t, idlePerHost)
		c.Transport = &bounded{next: t}
	}
	return nil
}

// quiet keeps containerd's resolver from writing to the process's standard error with a logger of its own. What it would
// say is in the errors it returns.
func quiet(ctx context.Context) context.Context {
	return log.WithLogger(ctx, &log.Entry{Logger: like(log.L.Logger)})
}

// like makes a new value of the type that its argument points to: a zero logrus.Logger logs nothing but panics.
func like[T any](*T) *T { return new(T) }
