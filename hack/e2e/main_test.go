//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

const (
	// newest is the line for what does not depend on containerd's.
	newest = "2.4"
	// parallel is how many tests run at once: most of them wait most of the time.
	parallel = "4"
	user     = "robot"
)

// What all tests share. TestMain sets it before they start.
var (
	bin      string // the directory of the programs
	harbor   backend
	upstream backend
	// password is the user's in both registries. It is random so that it can be searched for in whatever is printed.
	password = "pw-" + rand.Text()
)

// backend is a real registry behind TLS, with a password. Tests reach it through proxies of their own.
type backend struct {
	*rig.Registry
	ca *rig.CA
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx := context.Background()
	bin = filepath.Join(dir, "bin")
	if err := buildPrograms(ctx); err != nil {
		return 1, err
	}
	for name, b := range map[string]*backend{"harbor": &harbor, "upstream": &upstream} {
		if *b, err = startBackend(ctx, filepath.Join(dir, name)); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
	}
	if !isSet("test.parallel") {
		if err := flag.Set("test.parallel", parallel); err != nil {
			return 1, err
		}
	}
	return m.Run(), results.write()
}

// isSet tells whether a flag was given.
func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// buildPrograms builds the programs as they are shipped.
func buildPrograms(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version=e2e", "-o", bin+"/",
		"github.com/hotplate-dev/hotplate/cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

func startBackend(ctx context.Context, dir string) (backend, error) {
	ca, err := rig.NewCA("e2e backend")
	if err != nil {
		return backend{}, err
	}
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		return backend{}, err
	}
	r, err := rig.StartRegistry(ctx, rig.RegistryConfig{Dir: dir, CertPEM: cert, KeyPEM: key,
		Users: map[string]string{user: password}})
	return backend{r, ca}, err
}

// forLines runs a test on each containerd line, in parallel.
func forLines(t *testing.T, test func(t *testing.T, line string)) {
	t.Parallel()
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			test(t, line)
		})
	}
}
