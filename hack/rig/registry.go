package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
)

// RegistryConfig describes a registry.
type RegistryConfig struct {
	// Dir keeps its data, configuration and log. It is created, and not removed.
	Dir string
	// Addr is host:port to listen on. Empty, or with port 0, means a free port of 127.0.0.1 or of that host.
	Addr string
	// CertPEM and KeyPEM are the server's. Empty: plain HTTP.
	CertPEM, KeyPEM []byte
	// ClientCA, as PEM: only clients with a certificate of this authority may connect.
	ClientCA []byte
	// Users maps names to passwords. Empty: everybody may read and write.
	Users map[string]string

	// network is where it listens. Nil: here.
	network *netns
}

// Registry is a real distribution registry. Its methods may be called concurrently.
type Registry struct {
	bin string

	mu   sync.Mutex
	cfg  RegistryConfig
	proc *process
}

// StartRegistry starts a registry and waits until it answers with its certificate. The part is built first if it is not
// in the cache.
func StartRegistry(ctx context.Context, cfg RegistryConfig) (*Registry, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("the registry's Dir %q is not an absolute path", cfg.Dir)
	}
	bin, err := ensurePart(ctx, "registry")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the registry's directory: %w", err)
	}
	if cfg.network == nil {
		if cfg.Addr, err = freeAddr(cfg.Addr); err != nil {
			return nil, err
		}
	}
	r := &Registry{bin: bin, cfg: cfg}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Host is host:port, as it stands in an image reference. It stays the same across restarts.
func (r *Registry) Host() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg.Addr
}

// URL is the registry's address with its scheme and no path.
func (r *Registry) URL() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cfg.CertPEM) > 0 {
		return "https://" + r.cfg.Addr
	}
	return "http://" + r.cfg.Addr
}

// LogPath is the file with the output of all runs, which has a line for each request.
func (r *Registry) LogPath() string { return filepath.Join(r.cfg.Dir, "registry.log") }

// PID is the registry's process id, or 0 when it does not run.
func (r *Registry) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil || !r.proc.running() {
		return 0
	}
	return r.proc.pid()
}

// Start starts the registry again after Stop, on the same address and data. It does nothing if it runs.
func (r *Registry) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(ctx)
}

// Stop ends the registry: connections to it are refused.
func (r *Registry) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop(ctx)
}

// Rotate restarts the registry with another certificate and key.
func (r *Registry) Rotate(ctx context.Context, certPEM, keyPEM []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stop(ctx); err != nil {
		return err
	}
	r.cfg.CertPEM, r.cfg.KeyPEM = certPEM, keyPEM
	return r.start(ctx)
}

// SetUsers replaces the users and restarts the registry.
func (r *Registry) SetUsers(ctx context.Context, users map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stop(ctx); err != nil {
		return err
	}
	r.cfg.Users = users
	return r.start(ctx)
}

// Close stops the registry. Its files stay.
func (r *Registry) Close() error { return r.Stop(context.Background()) }

func (r *Registry) stop(ctx context.Context) error {
	if r.proc == nil {
		return nil
	}
	return r.proc.stop(ctx)
}

func (r *Registry) start(ctx context.Context) error {
	if r.proc != nil && r.proc.running() {
		return nil
	}
	config, err := r.writeConfig()
	if err != nil {
		return fmt.Errorf("configure the registry: %w", err)
	}
	line := r.cfg.network.enter(filepath.Join(r.bin, "registry"), "serve", config)
	r.proc, err = command{
		path: line[0],
		args: line[1:],
		// Otherwise it tries to send traces to a collector on localhost.
		env:     cleanEnv(r.bin, []string{"OTEL_TRACES_EXPORTER=none"}),
		logPath: r.LogPath(),
	}.start()
	if err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	r.proc.name = "the registry"
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return r.proc.waitReady(ctx, r.LogPath(), r.answers)
}

// answers checks that somebody listens and, with TLS, that it shows the certificate that was asked for.
func (r *Registry) answers(ctx context.Context) error {
	conn, err := r.cfg.network.dial(ctx, "tcp", r.cfg.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if len(r.cfg.CertPEM) == 0 {
		return nil
	}
	want, err := tls.X509KeyPair(r.cfg.CertPEM, r.cfg.KeyPEM)
	if err != nil {
		return err
	}
	// The certificate is compared byte for byte, so it need not be valid: tests use expired ones.
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := client.HandshakeContext(ctx); err != nil {
		return err
	}
	if got := client.ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, want.Certificate[0]) {
		return errors.New("it shows another certificate")
	}
	return nil
}

// writeConfig writes the registry's files and returns the path of its configuration.
func (r *Registry) writeConfig() (string, error) {
	var errs []error
	file := func(name string, data []byte) string {
		path := filepath.Join(r.cfg.Dir, name)
		errs = append(errs, os.WriteFile(path, data, 0o600))
		return path
	}
	http := table{"addr": r.cfg.Addr}
	if len(r.cfg.CertPEM) > 0 {
		t := table{"certificate": file("cert.pem", r.cfg.CertPEM), "key": file("key.pem", r.cfg.KeyPEM)}
		if len(r.cfg.ClientCA) > 0 {
			t["clientcas"] = []string{file("client-ca.pem", r.cfg.ClientCA)}
		}
		http["tls"] = t
	}
	config := table{
		"version": "0.1",
		"log":     table{"level": "info"},
		"storage": table{
			"filesystem": table{"rootdirectory": filepath.Join(r.cfg.Dir, "data")},
			"delete":     table{"enabled": true},
		},
		"http": http,
	}
	if len(r.cfg.Users) > 0 {
		users, err := htpasswd(r.cfg.Users)
		errs = append(errs, err)
		config["auth"] = table{"htpasswd": table{"realm": "rig", "path": file("htpasswd", users)}}
	}
	text, err := yaml.Marshal(config)
	errs = append(errs, err)
	path := file("config.yml", text)
	return path, errors.Join(errs...)
}

func htpasswd(users map[string]string) ([]byte, error) {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(users)) {
		// The registry checks the password on every request, so it must be cheap.
		hash, err := bcrypt.GenerateFromPassword([]byte(users[name]), bcrypt.MinCost)
		if err != nil {
			return nil, fmt.Errorf("hash the password of %q: %w", name, err)
		}
		fmt.Fprintf(&b, "%s:%s\n", name, hash)
	}
	return b.Bytes(), nil
}
