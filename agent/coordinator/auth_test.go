package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// reviewer is an API server that knows some tokens.
type reviewer struct {
	tokens map[string]Identity
	away   atomic.Bool
	asked  atomic.Int32
	takes  time.Duration
}

func (r *reviewer) Review(ctx context.Context, token string) (Identity, error) {
	r.asked.Add(1)
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return Identity{}, ctx.Err()
	}
	if r.away.Load() {
		return Identity{}, errors.New("connection refused")
	}
	id, ok := r.tokens[token]
	if !ok {
		return id, fmt.Errorf("%w: unknown", ErrRefused)
	}
	return id, nil
}

func agentOn(node string) Identity {
	return Identity{Namespace: "hotplate", ServiceAccount: "hotplate-agent", Pod: "agent-" + node, PodUID: "uid-" + node, Node: node}
}

func TestWhoIsBelieved(t *testing.T) {
	change := func(f func(*Identity)) Identity {
		id := agentOn("gpu-1")
		f(&id)
		return id
	}
	for name, c := range map[string]struct {
		id   Identity
		want string
		says string
	}{
		"an agent":                       {agentOn("gpu-1"), "gpu-1", ""},
		"an agent of an older cluster":   {change(func(id *Identity) { id.Node = "" }), "gpu-1", ""},
		"a pod that is not known":        {change(func(id *Identity) { id.Node, id.PodUID = "", "other" }), "", "on which node"},
		"another account":                {change(func(id *Identity) { id.ServiceAccount = "default" }), "", "not of service account"},
		"the account's name elsewhere":   {change(func(id *Identity) { id.Namespace = "default" }), "", "not of service account"},
		"a person":                       {Identity{}, "", "not of service account"},
		"a token that names only a node": {change(func(id *Identity) { id.Pod, id.PodUID = "", "" }), "", "not bound to a pod"},
		"a token without an object":      {change(func(id *Identity) { id.Pod, id.PodUID, id.Node = "", "", "" }), "", "not bound to a pod"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &reviewer{tokens: map[string]Identity{"t": c.id}}
			a := NewAuthenticator(r, "hotplate", "hotplate-agent", func(pod, uid string) (string, bool) {
				return "gpu-1", pod == "agent-gpu-1" && uid == "uid-gpu-1"
			})
			node, err := a.Node(t.Context(), "10.0.0.1", "t")
			if node != c.want || (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%q, %v", node, err)
			}
		})
	}
	a := NewAuthenticator(&reviewer{}, "hotplate", "hotplate-agent", nil)
	for _, token := range []string{"", strings.Repeat("x", maxToken+1), "made-up"} {
		if _, err := a.Node(t.Context(), "10.0.0.1", token); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "made-up") {
			t.Error(err)
		}
	}
}

func TestTokensAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{tokens: map[string]Identity{"t": agentOn("gpu-1")}, takes: time.Millisecond}
		a := NewAuthenticator(r, "hotplate", "hotplate-agent", nil)
		ask := func(token string, asked int32, ok bool) {
			t.Helper()
			node, err := a.Node(t.Context(), "10.0.0.1", token)
			if r.asked.Load() != asked || (err == nil) != ok || ok && node != "gpu-1" {
				t.Errorf("%s: asked %d times, %q, %v", token, r.asked.Load(), node, err)
			}
		}
		ask("t", 1, true)
		r.away.Store(true)
		time.Sleep(tokenTrusted - time.Second)
		ask("t", 1, true)
		time.Sleep(time.Second)
		ask("t", 2, false) // that nobody answers is not remembered
		ask("t", 3, false)
		r.away.Store(false)
		ask("bad", 4, false)
		ask("bad", 4, false)
		time.Sleep(tokenRefused)
		ask("bad", 5, false)
	})
}

// TestOneReviewForAll: a caller that goes away does not take the answer from the others.
func TestOneReviewForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{tokens: map[string]Identity{"t": agentOn("gpu-1")}, takes: time.Second}
		a := NewAuthenticator(r, "hotplate", "hotplate-agent", nil)
		first, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		for i := range 10 {
			g.Go(func() {
				ctx := t.Context()
				if i == 0 {
					ctx = first
				}
				if node, err := a.Node(ctx, "10.0.0.1", "t"); node != "gpu-1" {
					t.Error(node, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		g.Wait()
		if r.asked.Load() != 1 {
			t.Errorf("asked %d times", r.asked.Load())
		}
	})
}

// TestReviewsThatWaitedAreNotGivenUp: after a restart all nodes come at once. What is asked of the API server must not be for nothing.
func TestReviewsThatWaitedAreNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tokens = 3 * maxReviews
		r := &reviewer{tokens: map[string]Identity{}, takes: 7 * time.Second}
		a := NewAuthenticator(r, "hotplate", "hotplate-agent", nil)
		var group sync.WaitGroup
		var good, late atomic.Int32
		for i := range tokens {
			node := fmt.Sprintf("gpu-%d", i)
			r.tokens[node] = agentOn(node)
		}
		for node := range r.tokens {
			group.Go(func() {
				is, err := a.Node(t.Context(), node, node)
				switch {
				case err == nil && is == node:
					good.Add(1)
				case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrRefused):
					late.Add(1)
				default:
					t.Errorf("%s: %q, %v", node, is, err)
				}
			})
		}
		group.Wait()
		// The first sixteen, and those whose turn was after seven seconds. The rest had to wait for too long, and nobody was asked.
		if good.Load() != 2*maxReviews || late.Load() != maxReviews || r.asked.Load() != 2*maxReviews {
			t.Errorf("%d good, %d too late, %d reviews", good.Load(), late.Load(), r.asked.Load())
		}
	})
}

// TestTooManyAtOnceAreSentAway at once: those that wait take memory.
func TestTooManyAtOnceAreSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, more = maxReviews + maxQueued, 50
		r := &reviewer{tokens: map[string]Identity{}, takes: 100 * time.Millisecond}
		for i := range room + more {
			r.tokens[fmt.Sprint(i)] = agentOn("gpu-1")
		}
		a := NewAuthenticator(r, "hotplate", "hotplate-agent", nil)
		var group sync.WaitGroup
		var good, away atomic.Int32
		began := time.Now()
		for token := range r.tokens {
			group.Go(func() {
				switch _, err := a.Node(t.Context(), token, token); {
				case err == nil:
					good.Add(1)
				case !errors.Is(err, ErrRefused) && time.Since(began) == 0:
					away.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if good.Load() != room || away.Load() != more {
			t.Errorf("%d good, %d sent away", good.Load(), away.Load())
		}
	})
}

// TestOneSourceDoesNotKeepOthersAway with tokens that it makes up.
func TestOneSourceDoesNotKeepOthersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{tokens: map[string]Identity{"good": agentOn("gpu-1")}, takes: 100 * time.Millisecond}
		a := NewAuthenticator(r, "hotplate", "hotplate-agent", nil)
		var group sync.WaitGroup
		var refused, away atomic.Int32
		for i := range maxReviews + maxQueued {
			group.Go(func() {
				if _, err := a.Node(t.Context(), "10.0.0.66", fmt.Sprint(i)); errors.Is(err, ErrRefused) {
					refused.Add(1)
				} else {
					away.Add(1)
				}
			})
		}
		synctest.Wait()
		if node, err := a.Node(t.Context(), "10.0.0.1", "good"); node != "gpu-1" || err != nil {
			t.Errorf("another source: %q, %v", node, err)
		}
		group.Wait()
		if refused.Load() != maxOfOne || away.Load() != maxOfOne {
			t.Errorf("%d refused, %d sent away", refused.Load(), away.Load())
		}
		if a.inQueue != 0 || len(a.bySource) != 0 {
			t.Errorf("left in the queue: %d, %v", a.inQueue, a.bySource)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	a := NewAuthenticator(&reviewer{}, "hotplate", "hotplate-agent", nil)
	for i := range maxTokens + 10 {
		if _, err := a.Node(t.Context(), "10.0.0.1", fmt.Sprint(i)); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	if n := len(a.known); n > maxTokens {
		t.Errorf("%d answers are remembered", n)
	}
}
