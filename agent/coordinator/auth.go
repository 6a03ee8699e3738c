package coordinator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// tokenTrusted is how long the answer about a good token is believed, tokenRefused that about a bad one.
	tokenTrusted = 2 * time.Minute
	tokenRefused = 10 * time.Second
	// maxTokens bounds how many answers are remembered, maxReviews how many are asked for at once, maxQueued how many more wait
	// for that: some seconds' worth. Whoever comes then is better away than waiting here with a connection.
	maxTokens  = 20_000
	maxReviews = 16
	maxQueued  = 256
	// maxOfOne is how many of those one source gets: whoever makes up tokens is not to keep those of agents away.
	maxOfOne = (maxReviews + maxQueued) / 2
	// reviewWait is how long a review waits for its turn, reviewTimeout bounds the review itself: one that was begun is not given
	// up because it has waited. Both together are less than an agent waits. Who asks first may go away; others wait for the same
	// answer.
	reviewWait    = 8 * time.Second
	reviewTimeout = 10 * time.Second
	// maxToken is longer than any token of a service account.
	maxToken = 16 << 10
)

// ErrRefused is the class of errors of a token that is not one of an agent.
var ErrRefused = errors.New("not an agent of this cluster")

// Identity is what the API server says of a token.
type Identity struct {
	// Namespace and ServiceAccount are empty for whoever is no service account.
	Namespace, ServiceAccount string
	// Pod and Node are those that the token is bound to; Node is empty where the API server does not say it.
	Pod, PodUID, Node string
}

// Reviewer asks the API server whose token it is. An error that is an ErrRefused says that it is nobody's for our audience.
type Reviewer interface {
	Review(ctx context.Context, token string) (Identity, error)
}

// Authenticator tells which node a token is from. It is safe for concurrent use.
type Authenticator struct {
	reviewer Reviewer
	// namespace and account are those of agents.
	namespace, account string
	// nodeOf tells where a pod of the namespace runs, for tokens that do not.
	nodeOf func(pod, uid string) (node string, ok bool)
	slots  chan struct{} // holds a token for each review under way
	flight singleflight.Group

	mu       sync.Mutex                   // guards what follows
	known    map[[sha256.Size]byte]answer // tokens themselves are not kept
	inQueue  int                          // reviews under way, and all that wait for one
	bySource map[string]int               // the same of each source
}

// answer is what is known of a token.
type answer struct {
	node  string
	err   error
	until time.Time
}

// NewAuthenticator returns one for agents that run as a service account.
func NewAuthenticator(reviewer Reviewer, namespace, account string, nodeOf func(pod, uid string) (string, bool)) *Authenticator {
	return &Authenticator{reviewer: reviewer, namespace: namespace, account: account, nodeOf: nodeOf,
		slots: make(chan struct{}, maxReviews), known: map[[sha256.Size]byte]answer{}, bySource: map[string]int{}}
}

// Node is the node that a token is from, which came from a source, an address of IP. An ErrRefused is final; any other error says
// that it could not be asked.
func (a *Authenticator) Node(ctx context.Context, source, token string) (string, error) {
	if token == "" || len(token) > maxToken {
		return "", fmt.Errorf("%w: no token, or one that is too long", ErrRefused)
	}
	key := sha256.Sum256([]byte(token))
	if is, ok := a.remembered(key); ok {
		return is.node, is.err
	}
	v, err, _ := a.flight.Do(string(key[:]), func() (any, error) { return a.ask(ctx, source, key, token) })
	if err != nil {
		return "", err
	}
	return v.(answer).node, v.(answer).err
}

func (a *Authenticator) remembered(key [sha256.Size]byte) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	is, ok := a.known[key]
	return is, ok && time.Now().Before(is.until)
}

// enter takes a place in the queue, or says why there is none.
func (a *Authenticator) enter(source string) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.inQueue >= maxReviews+maxQueued:
		return nil, fmt.Errorf("ask whose token it is: %d others wait for that", a.inQueue)
	case a.bySource[source] >= maxOfOne:
		return nil, fmt.Errorf("ask whose token it is: %d others of %s wait for that", a.bySource[source], source)
	}
	a.inQueue++
	a.bySource[source]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.inQueue--
		if a.bySource[source]--; a.bySource[source] == 0 {
			delete(a.bySource, source)
		}
	}, nil
}

func (a *Authenticator) ask(ctx context.Context, source string, key [sha256.Size]byte, token string) (answer, error) {
	leave, err := a.enter(source)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewWait)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-wait.Done():
		return answer{}, fmt.Errorf("ask whose token it is: %d others are asked about: %w", maxReviews, wait.Err())
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
	defer cancel()
	id, err := a.reviewer.Review(ctx, token)
	if err != nil && !errors.Is(err, ErrRefused) {
		return answer{}, fmt.Errorf("ask whose token it is: %w", err)
	}
	is := answer{err: err, until: time.Now().Add(tokenTrusted)}
	if err == nil {
		is.node, is.err = a.judge(id)
	}
	if is.err != nil {
		is.until = time.Now().Add(tokenRefused)
	}
	a.remember(key, is)
	return is, nil
}

// judge says which node an identity stands for. A token that names a node and no pod may be made by anybody who may make tokens.
func (a *Authenticator) judge(id Identity) (string, error) {
	switch {
	case id.Namespace != a.namespace || id.ServiceAccount != a.account:
		return "", fmt.Errorf("%w: the token is not of service account %s in namespace %s", ErrRefused, a.account, a.namespace)
	case id.Pod == "" || id.PodUID == "":
		return "", fmt.Errorf("%w: the token is not bound to a pod", ErrRefused)
	case id.Node != "":
		return id.Node, nil
	}
	node, ok := a.nodeOf(id.Pod, id.PodUID)
	if !ok || node == "" {
		return "", fmt.Errorf("%w: it is not known on which node pod %s runs", ErrRefused, id.Pod)
	}
	return node, nil
}

func (a *Authenticator) remember(key [sha256.Size]byte, is answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxTokens {
		now := time.Now()
		for k, old := range a.known {
			if !now.Before(old.until) {
				delete(a.known, k)
			}
		}
	}
	if len(a.known) >= maxTokens { // somebody makes up tokens; those of agents are asked for again
		clear(a.known)
	}
	a.known[key] = is
}
