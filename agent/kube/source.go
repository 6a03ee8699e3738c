package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/config"
)

const (
	// patience is how long the API may take to answer before what it said last is used.
	patience = 5 * time.Second
	// settle is how long no event may come before everything is looked at, so that changes made together are seen together;
	// after settleMost it is in any case.
	settle     = 100 * time.Millisecond
	settleMost = time.Second
	// readTimeout bounds one question for an object that is not watched.
	readTimeout = 5 * time.Second
)

// Config is what a Source needs. All fields are required.
type Config struct {
	Client kubernetes.Interface
	// Namespace is the agent's own. Nothing else is read.
	Namespace string
	// ConfigMap holds the document.
	ConfigMap string
	// RunDir is a directory on a tmpfs of the host. It is made if it is not there.
	RunDir string
	Log    *slog.Logger
}

func (c Config) check() error {
	var errs []error
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Client", c.Client != nil}, {"Namespace", c.Namespace != ""}, {"ConfigMap", c.ConfigMap != ""}, {"RunDir", c.RunDir != ""},
		{"Log", c.Log != nil},
	} {
		if !f.set {
			errs = append(errs, fmt.Errorf("config source: %s is required", f.name))
		}
	}
	return errors.Join(errs...)
}

// Source delivers the document of a ConfigMap and what it names whenever any of it changes. Next is for one goroutine at a
// time; the other methods may be called from any.
type Source struct {
	watcher
	cfg      Config
	key      []byte        // of Snapshot.Content
	changed  chan struct{} // capacity 1: what is watched may have changed
	document *object
	// The rest belongs to the goroutine that calls Next.
	named map[ref]*object // what the newest good document names
	saved *answer         // what the API said before the start; nil once it has answered, or if there is none
	last  string          // the Content delivered last
	kept  string          // the Content of what the run directory holds
	away  bool            // that the API does not answer is in the log
}

// New returns a Source that watches already. The ConfigMap need not be there yet.
func New(cfg Config) (*Source, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Source{watcher: newWatcher(cfg.Client, cfg.Namespace, cfg.Log), cfg: cfg, key: []byte(rand.Text()),
		changed: make(chan struct{}, 1), named: make(map[ref]*object)}
	var err error
	if s.saved, err = loadAnswer(cfg.RunDir, cfg.Namespace); err != nil {
		cfg.Log.Warn("the agent needs the Kubernetes API to start", "err", err)
	}
	s.document = s.watch(ref{configMap, cfg.ConfigMap}, s.changed)
	if s.saved != nil {
		s.kept = s.read(s.saved).Content
		s.follow(s.saved.refs()) // a faulty document may follow, and the last good one need them
	}
	return s, nil
}

// String is what the source is called in messages.
func (s *Source) String() string { return "ConfigMap " + s.cfg.Namespace + "/" + s.cfg.ConfigMap }

// follow watches these objects beside the document, and no others.
func (s *Source) follow(refs []ref) {
	for r, o := range s.named {
		if !slices.Contains(refs, r) {
			o.stop()
			delete(s.named, r)
		}
	}
	for _, r := range refs {
		if _, ok := s.named[r]; !ok && r != s.document.ref {
			s.named[r] = s.watch(r, s.changed)
		}
	}
}

// Next returns at once when it is called first, or after a few seconds if the API does not answer; and then when something
// has changed. What is wrong is in the snapshot; the error says that ctx has ended or the source was closed.
func (s *Source) Next(ctx context.Context) (config.Snapshot, error) {
	for {
		if s.last != "" {
			if err := s.wait(ctx); err != nil {
				return config.Snapshot{}, err
			}
		}
		snapshot, ok := s.look(ctx)
		if err := s.ended(ctx); err != nil {
			return config.Snapshot{}, err
		}
		if ok && snapshot.Content != s.last {
			s.last = snapshot.Content
			return snapshot, nil
		}
	}
}

func (s *Source) ended(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return fmt.Errorf("config source %s: %w", s, os.ErrClosed)
	}
	return ctx.Err()
}

// wait returns when it is worth looking again.
func (s *Source) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.ended(ctx)
	case <-s.changed:
	}
	quiet, most := time.NewTimer(settle), time.NewTimer(settleMost)
	defer quiet.Stop()
	defer most.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return s.ended(ctx)
		case <-s.changed:
			quiet.Reset(settle)
		case <-quiet.C:
			return nil
		case <-most.C:
			return nil
		}
	}
}

// look is what there is now. It reports false where the API does not answer and something was delivered before: that stays.
func (s *Source) look(ctx context.Context) (_ config.Snapshot, ok bool) {
	if !s.await(ctx) {
		return s.withoutAPI()
	}
	d, _, asked := s.document.get()
	if cfg, err := config.Decode("", d[config.DocumentKey]); err == nil {
		s.follow(refsOf(cfg))
		if !s.await(ctx) {
			return s.withoutAPI()
		}
	}
	s.tellAPI(asked)
	s.saved = nil
	now := s.held()
	snapshot := s.read(now)
	if snapshot.Objects = (more{now, s}); snapshot.Content == s.kept {
		return snapshot, true
	}
	s.kept = snapshot.Content
	if err := now.keep(s.cfg.RunDir); err != nil {
		s.cfg.Log.Warn("an agent that starts while the Kubernetes API is away would have only the last good document", "err", err)
	}
	return snapshot, true
}

// withoutAPI is what there is when the API does not answer.
func (s *Source) withoutAPI() (_ config.Snapshot, ok bool) {
	err := fmt.Errorf("no answer within %s", patience)
	for o := range s.objects() {
		if _, known, asked := o.get(); !known && asked != nil {
			err = asked
		}
	}
	s.tellAPI(err)
	if s.last != "" {
		return config.Snapshot{}, false
	}
	if s.saved == nil {
		snapshot := config.Snapshot{Source: s.String(), Err: fmt.Errorf("the Kubernetes API does not answer: %w", err)}
		snapshot.Content = snapshot.Sum(s.key)
		return snapshot, true
	}
	s.cfg.Log.Warn("using what the Kubernetes API said before", "said", s.saved.Time.Format(time.RFC3339))
	return s.read(s.saved), true
}

// tellAPI logs once that the API does not answer, and once that it does again.
func (s *Source) tellAPI(err error) {
	switch {
	case err != nil && !s.away:
		s.cfg.Log.Warn("the Kubernetes API does not answer; what it said last stays in force", "err", cut(err.Error()))
	case err == nil && s.away:
		s.cfg.Log.Info("the Kubernetes API answers again")
	}
	s.away = err != nil
}

// held is what is known now.
func (s *Source) held() *answer {
	a := newAnswer(s.cfg.Namespace)
	for o := range s.objects() {
		d, known, err := o.get()
		if !known {
			a.faults[o.ref] = fmt.Errorf("%s: the Kubernetes API does not let the agent read it: %w", o.ref, err)
			continue
		}
		a.put(o.ref, d)
	}
	return a
}

// read is the snapshot of an answer.
func (s *Source) read(a *answer) config.Snapshot {
	snapshot := config.Snapshot{Source: s.String(), Objects: a}
	d, err := a.ConfigMap(s.cfg.ConfigMap)
	text, ok := d[config.DocumentKey]
	switch {
	case errors.Is(err, errAbsent):
		snapshot.Err = noDocumentError{fmt.Errorf("%w: kubectl --namespace %s create configmap %s --from-file=%s", err, s.cfg.Namespace,
			s.cfg.ConfigMap, config.DocumentKey)}
	case err != nil:
		snapshot.Err = err
	case !ok:
		snapshot.Err = fmt.Errorf("%s has no key %s, which is to hold the document; it has %s", s, config.DocumentKey,
			strings.Join(slices.Sorted(maps.Keys(d)), ", "))
	default:
		snapshot = config.Read(s.String(), text, a)
	}
	snapshot.Content = snapshot.Sum(s.key)
	return snapshot
}

// noDocumentError is of the class config.ErrNoDocument.
type noDocumentError struct{ error }

func (noDocumentError) Is(class error) bool { return class == config.ErrNoDocument }

// more are the objects of an answer, and all others of the namespace, for which the API is asked: a last good document may
// name others than the newest one.
type more struct {
	*answer
	s *Source
}

var _ config.Objects = more{}

// ConfigMap implements config.Objects.
func (m more) ConfigMap(name string) (map[string][]byte, error) {
	d, err := m.answer.ConfigMap(name)
	return m.ask(ref{configMap, name}, d, err)
}

// Secret implements config.Objects.
func (m more) Secret(name string) (map[string][]byte, error) {
	d, err := m.answer.Secret(name)
	return m.ask(ref{secret, name}, d, err)
}

func (m more) ask(r ref, d map[string][]byte, err error) (map[string][]byte, error) {
	if !errors.Is(err, errAbsent) {
		return d, err
	}
	ctx, cancel := context.WithTimeout(m.s.ctx, readTimeout)
	defer cancel()
	return read(ctx, m.s.client, m.s.namespace, r)
}

func refsOf(cfg *config.Config) []ref {
	configMaps, secrets := cfg.ObjectNames()
	var refs []ref
	for _, name := range configMaps {
		refs = append(refs, ref{configMap, name})
	}
	for _, name := range secrets {
		refs = append(refs, ref{secret, name})
	}
	return refs
}

// await waits a little until the API has said something of every object that is watched, and reports whether it has.
func (s *Source) await(ctx context.Context) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for !s.heard() {
		select {
		case <-s.changed:
		case <-timer.C:
			return s.heard()
		case <-ctx.Done():
			return false
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}

// heard reports whether the API has said something of every object that is watched, be it that we may not read it.
func (s *Source) heard() bool {
	for o := range s.objects() {
		if _, known, err := o.get(); !known && !refused(err) {
			return false
		}
	}
	return true
}

// objects are those of the document, and the document.
func (s *Source) objects() map[*object]bool {
	all := map[*object]bool{s.document: true}
	for o := range maps.Values(s.named) {
		all[o] = true
	}
	return all
}
