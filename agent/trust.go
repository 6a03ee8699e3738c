package agent

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// trust lets old and new CAs overlap: while an endpoint does not verify against the CAs that the config names now, the
// ones that last did stay trusted beside them. Which of the two changes first, the config or the endpoint's
// certificate, then does not matter.
//
// It belongs to the reconciler's goroutine. What was proven is kept in a file, so that a restart in the middle of a
// rotation does not cut the old CA off.
type trust struct {
	path string
	// proven is the bundle that last verified an endpoint, by trustKey; for one that none has verified yet, the first
	// that the config named: containerd may reach what the agent cannot.
	proven map[string]certs.Bundle
}

func loadTrust(path string) (*trust, error) {
	t := &trust{path: path, proven: make(map[string]certs.Bundle)}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read proven CAs: %w", err)
	}
	var saved map[string]string
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("read proven CAs from %s (remove it to start without): %w", path, err)
	}
	for key, pem := range saved {
		if pem == "" {
			t.proven[key] = certs.Bundle{}
			continue
		}
		b, err := certs.ParseBundle([]byte(pem))
		if err != nil {
			return nil, fmt.Errorf("read proven CAs from %s (remove it to start without): %w", path, err)
		}
		t.proven[key] = b
	}
	return t, nil
}

// effective is what the hosts.toml of key should trust while the config wants wanted, and whether that includes CAs which
// the config does not name any more. The system's roots are trusted beside every bundle, so a change from or to none
// needs no special case. Expired CAs do not overlap: nothing verifies against them.
func (t *trust) effective(key string, wanted certs.Bundle) (_ certs.Bundle, overlap bool) {
	proven, ok := t.proven[key]
	if !ok || proven.Equal(wanted) {
		return wanted, false
	}
	union := certs.Merge(wanted, unexpired(proven))
	return union, !union.Equal(wanted)
}

func unexpired(b certs.Bundle) certs.Bundle {
	return b.Without(func(c *x509.Certificate) bool { return certs.Check(c, time.Now()) == certs.Expired })
}

// trustKey names the use of an endpoint by one registry: two registries may reach the same endpoint with different
// bundles.
func trustKey(registry, endpoint string) string { return registry + " " + endpoint }

// of is effective for an endpoint. Where nothing is verified, there is nothing to prove and nothing to wait for.
func (t *trust) of(e endpoint) (_ certs.Bundle, overlap bool) {
	if e.tls.SkipVerify {
		return e.tls.CA, false
	}
	return t.effective(e.key(), e.tls.CA)
}

// overlapped returns regs with the CAs that stay trusted until the new ones are proven.
func (t *trust) overlapped(regs []hostconfig.Registry) []hostconfig.Registry {
	out := slices.Clone(regs)
	for i := range out {
		out[i].Mirrors = slices.Clone(out[i].Mirrors)
	}
	for _, e := range endpoints(out) {
		e.tls.CA, _ = t.of(e)
	}
	return out
}

// assume takes what the config names for an endpoint that was not heard of before as what it verifies against.
func (t *trust) assume(all []endpoint) error {
	changed := false
	for _, e := range all {
		if _, ok := t.proven[e.key()]; !ok && !e.tls.SkipVerify {
			t.proven[e.key()] = e.tls.CA
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return t.save()
}

// prove records that the endpoint of key verified against bundle alone.
func (t *trust) prove(key string, bundle certs.Bundle) error {
	if old, ok := t.proven[key]; ok && old.Equal(bundle) {
		return nil
	}
	t.proven[key] = bundle
	return t.save()
}

// keep forgets endpoints that the config does not use any more.
func (t *trust) keep(used map[string]bool) error {
	changed := false
	for key := range t.proven {
		if !used[key] {
			delete(t.proven, key)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return t.save()
}

func (t *trust) save() error {
	saved := make(map[string]string, len(t.proven))
	for key, b := range t.proven {
		saved[key] = string(b.PEM())
	}
	data, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return fmt.Errorf("encode proven CAs: %w", err)
	}
	return apply.WriteFile(t.path, data, 0o600)
}
