package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// resolving looks up tags as the nodes would: through the hosts directory that the config asks for, which is written to a
// directory of the coordinator's own.
type resolving struct {
	dir string
	log *slog.Logger

	mu   sync.Mutex
	next int // guarded by mu; each config has its own directory
}

// of returns what looks up a tag with a config.
func (r *resolving) of(s config.Snapshot) (func(ctx context.Context, ref string) (string, error), error) {
	regs, err := agent.Registries(s)
	if err != nil {
		return nil, err
	}
	tree, err := hostconfig.Render(regs, hostconfig.Version{})
	if err != nil {
		return nil, err
	}
	dir, err := r.write(tree)
	if err != nil {
		return nil, fmt.Errorf("write the hosts directory to resolve tags by: %w", err)
	}
	userAgent := "hotplate-coordinator/" + version
	client, err := fetch.New(fetch.Config{Hosts: fetch.Hosts(dir, userAgent, agent.LoginsOf(s)), Log: r.log, UserAgent: userAgent})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, ref string) (string, error) {
		named, err := config.ParseRef(ref)
		if err != nil {
			return "", err
		}
		repo, err := client.Repository(named)
		if err != nil {
			return "", err
		}
		defer repo.Close()
		desc, _, err := repo.Resolve(ctx)
		return desc.Digest.String(), err
	}, nil
}

// write makes the directory of a config. The one before stays for lookups that are under way; older ones go.
func (r *resolving) write(tree hostconfig.Tree) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	dir := filepath.Join(r.dir, fmt.Sprint(r.next))
	errs := []error{os.RemoveAll(filepath.Join(r.dir, fmt.Sprint(r.next-2))), os.MkdirAll(dir, 0o700)}
	for _, path := range tree.Paths() {
		file := filepath.Join(dir, path)
		errs = append(errs, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, tree[path].Data, 0o600))
	}
	return dir, errors.Join(errs...)
}
