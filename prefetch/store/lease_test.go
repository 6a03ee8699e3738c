package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"

	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// manager has leases that hold one resource each, with their name.
type manager struct {
	leases.Manager
	list, add error // of the lease "bad", and of what it holds
	taken     []string
}

func (m *manager) ListResources(_ context.Context, l leases.Lease) ([]leases.Resource, error) {
	if l.ID == "bad" && m.list != nil {
		return nil, m.list
	}
	return []leases.Resource{{ID: l.ID, Type: "content"}}, nil
}

func (m *manager) AddResource(_ context.Context, _ leases.Lease, r leases.Resource) error {
	if r.ID == "bad" && m.add != nil {
		return m.add
	}
	m.taken = append(m.taken, r.ID)
	return nil
}

// TestWhatEarlierLeasesHoldIsTakenOver would lose what is there if an error were taken for a lease that is gone: the earlier
// leases are deleted in the end.
func TestWhatEarlierLeasesHoldIsTakenOver(t *testing.T) {
	gone, broken := errdefs.ErrNotFound, errors.New("broken")
	for name, tc := range map[string]struct {
		list, add, want error
		taken           []string
	}{
		"all is there":          {taken: []string{"bad", "good"}},
		"a lease is gone":       {list: gone, taken: []string{"good"}},
		"a blob is gone":        {add: gone, taken: []string{"good"}},
		"a lease is not read":   {list: broken, want: broken},
		"a blob is not held":    {add: broken, want: broken},
		"containerd went away":  {list: errdefs.ErrUnavailable, want: errdefs.ErrUnavailable},
		"containerd went later": {add: errdefs.ErrUnavailable, want: errdefs.ErrUnavailable},
	} {
		m := &manager{list: tc.list, add: tc.add}
		err := store.TakeOver(t.Context(), m, leases.Lease{ID: "new"}, []leases.Lease{{ID: "bad"}, {ID: "good"}})
		if !errors.Is(err, tc.want) || !slices.Equal(m.taken, tc.taken) {
			t.Errorf("%s: %v, %v; want %v, %v", name, m.taken, err, tc.taken, tc.want)
		}
	}
}
