package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// The labels of our leases.
const (
	leaseOwner = "hotplate.dev/owner"
	leaseImage = "hotplate.dev/image"

	probeOwner   = "hotplate.dev/probe"
	probeProcess = "hotplate.dev/process"
)

// leaseLife is how long unfinished work is kept when nobody comes back to it and no Sweep or Release ends it before. A lease
// cannot be prolonged, so a pull that takes longer could never end.
const leaseLife = 14 * 24 * time.Hour

// Open implements prefetch.Store. A lease cannot be prolonged, so every session has a new one, which takes over what
// earlier ones of the same image hold; those are deleted at Close.
func (s *Store) Open(ctx context.Context, key string) (_ prefetch.Session, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	manager := s.client.LeasesService()
	if err := s.removeHalfMade(ctx, func(k string) bool { return k == key }); err != nil {
		return nil, err
	}
	older, err := s.leases(ctx, key)
	if err != nil {
		return nil, err
	}
	lease, err := manager.Create(ctx,
		leases.WithID(fmt.Sprintf("%s-%s-%d", s.cfg.Owner, key, time.Now().UnixNano())),
		leases.WithLabels(map[string]string{leaseOwner: s.cfg.Owner, leaseImage: key}),
		leases.WithExpiration(leaseLife))
	if err != nil {
		return nil, fmt.Errorf("create content lease: %w", err)
	}
	if err := takeOver(ctx, manager, lease, older); err != nil {
		s.clean(ctx, "a content lease", func(ctx context.Context) error { return s.drop(ctx, lease) })
		return nil, err
	}
	return &session{store: s, key: key, lease: lease, older: older, at: s.at.Load()}, nil
}

// takeOver lets a lease hold what earlier ones hold. Those are deleted afterwards, so that it must hold all of it.
func takeOver(ctx context.Context, manager leases.Manager, lease leases.Lease, older []leases.Lease) error {
	for _, old := range older {
		held, err := manager.ListResources(ctx, old)
		if errdefs.IsNotFound(err) {
			continue // it has expired meanwhile
		}
		if err != nil {
			return fmt.Errorf("list what content lease %s holds: %w", old.ID, err)
		}
		for _, res := range held {
			if err := manager.AddResource(ctx, lease, res); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("take %s %s over from content lease %s: %w", res.Type, res.ID, old.ID, err)
			}
		}
	}
	return nil
}

// Sweep implements prefetch.Store.
func (s *Store) Sweep(ctx context.Context, keep func(key string) bool) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	all, err := s.leases(ctx, "")
	if err != nil {
		return err
	}
	errs := []error{s.dropProbes(ctx, 0), s.removeProbes(ctx), s.repairAll(ctx), s.sweepArtifacts(ctx, keep),
		s.removeHalfMade(ctx, func(key string) bool { return !keep(key) })}
	for _, l := range all {
		if !keep(l.Labels[leaseImage]) {
			errs = append(errs, s.drop(ctx, l))
		}
	}
	return errors.Join(errs...)
}

// Release implements prefetch.Store.
func (s *Store) Release(ctx context.Context, key string) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	old, err := s.leases(ctx, key)
	if err != nil || len(old) == 0 {
		return err
	}
	errs := []error{s.removeHalfMade(ctx, func(k string) bool { return k == key })}
	for _, l := range old {
		errs = append(errs, s.drop(ctx, l))
	}
	return errors.Join(errs...)
}

// dropProbes deletes the leases of probes that died, of other processes, if they are as old as this.
func (s *Store) dropProbes(ctx context.Context, age time.Duration) error {
	list, err := s.client.LeasesService().List(ctx, fmt.Sprintf("labels.%q==%q", probeOwner, s.cfg.Owner))
	if err != nil {
		return fmt.Errorf("list leases for probing: %w", err)
	}
	var errs []error
	for _, l := range list {
		if l.Labels[probeProcess] != s.process && time.Since(l.CreatedAt) >= age {
			errs = append(errs, s.drop(ctx, l))
		}
	}
	return errors.Join(errs...)
}

// leases lists ours for key, or all of ours.
func (s *Store) leases(ctx context.Context, key string) ([]leases.Lease, error) {
	filter := fmt.Sprintf("labels.%q==%q", leaseOwner, s.cfg.Owner)
	if key != "" {
		filter += fmt.Sprintf(",labels.%q==%q", leaseImage, key)
	}
	list, err := s.client.LeasesService().List(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list content leases: %w", err)
	}
	return list, nil
}

func (s *Store) drop(ctx context.Context, l leases.Lease) error {
	if err := s.client.LeasesService().Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete content lease %s: %w", l.ID, err)
	}
	return nil
}
