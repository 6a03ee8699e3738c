package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// site is what all agents know: where the coordinator is, and which config is in force. It is safe for concurrent use.
type site struct {
	mu  sync.Mutex
	is  view
	all kube.Coordinator // as it was last seen
}

// view is that at one moment.
type view struct {
	url   string
	trust *tls.Config // nil while there is no coordinator
	hash  string
	// moved and configured are closed when that is not so any more.
	moved, configured chan struct{}
}

func newSite() *site {
	return &site{is: view{moved: make(chan struct{}), configured: make(chan struct{})}}
}

func (s *site) look() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.is
}

// follow keeps it up to date until ctx ends.
func (s *site) follow(ctx context.Context, finder *kube.Finder, source *kube.Source) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			if at, err := finder.Coordinator(); err == nil {
				if err := s.move(at); err != nil {
					return err
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-finder.Moved():
			}
		}
	})
	g.Go(func() error {
		for {
			snapshot, err := source.Next(ctx)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the end was asked for
			}
			if err = errors.Join(err, snapshot.Err); err != nil {
				return fmt.Errorf("read the config: %w", err)
			}
			s.configure(snapshot.Hash)
		}
	})
	return g.Wait()
}

func (s *site) move(at kube.Coordinator) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at == s.all {
		return nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(at.CA)) {
		return errors.New("the coordinator announces no certificate")
	}
	s.all, s.is.url = at, at.URL
	s.is.trust = &tls.Config{RootCAs: roots, ServerName: report.CoordinatorName, MinVersion: tls.VersionTLS13}
	close(s.is.moved)
	s.is.moved = make(chan struct{})
	return nil
}

func (s *site) configure(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hash == s.is.hash {
		return
	}
	s.is.hash = hash
	close(s.is.configured)
	s.is.configured = make(chan struct{})
}
