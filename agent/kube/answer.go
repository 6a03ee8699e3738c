package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// answerName is the file in the run directory.
const answerName = "api-answer.json"

// maxAnswer bounds that file when it is read, in bytes: 65 objects of 1 MiB, in base64.
const maxAnswer = 96 << 20

// answer is what the API said at one moment. It is immutable, and holds secrets: it is never printed.
type answer struct {
	// Time is when it was kept.
	Time time.Time `json:"time"`
	// ConfigMaps and Secrets are those that are there, by name.
	ConfigMaps map[string]data `json:"configMaps"`
	Secrets    map[string]data `json:"secrets"`

	namespace string
	faults    map[ref]error // why an object is not known
}

func newAnswer(namespace string) *answer {
	return &answer{ConfigMaps: make(map[string]data), Secrets: make(map[string]data), namespace: namespace,
		faults: make(map[ref]error)}
}

var _ config.Objects = (*answer)(nil)

// ConfigMap implements config.Objects.
func (a *answer) ConfigMap(name string) (map[string][]byte, error) {
	return a.object(ref{configMap, name}, a.ConfigMaps)
}

// Secret implements config.Objects.
func (a *answer) Secret(name string) (map[string][]byte, error) {
	return a.object(ref{secret, name}, a.Secrets)
}

func (a *answer) object(r ref, all map[string]data) (map[string][]byte, error) {
	if err := a.faults[r]; err != nil {
		return nil, err
	}
	d, ok := all[r.name]
	if !ok {
		return nil, absent(r, a.namespace)
	}
	return d, nil
}

// refs are the objects that a holds.
func (a *answer) refs() []ref {
	var out []ref
	for name := range a.ConfigMaps {
		out = append(out, ref{configMap, name})
	}
	for name := range a.Secrets {
		out = append(out, ref{secret, name})
	}
	return out
}

// put notes what is known of an object; nil data means that it is not there.
func (a *answer) put(r ref, d data) {
	switch {
	case d == nil:
	case r.kind == secret:
		a.Secrets[r.name] = d
	default:
		a.ConfigMaps[r.name] = d
	}
}

// keep writes a to the run directory.
func (a *answer) keep(dir string) error {
	a.Time = time.Now()
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep what the Kubernetes API said: %w", err)
	}
	if err := apply.WriteFile(filepath.Join(dir, answerName), text, 0o600); err != nil {
		return fmt.Errorf("keep what the Kubernetes API said: %w", err)
	}
	return nil
}

// Forget removes what a Source has kept in the run directory. No Source may be at work.
func Forget(runDir string) error {
	if err := os.Remove(filepath.Join(runDir, answerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what the Kubernetes API said: %w", err)
	}
	return nil
}

// loadAnswer reads what keep wrote; nil if there is none.
func loadAnswer(dir, namespace string) (*answer, error) {
	f, err := os.Open(filepath.Join(dir, answerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the Kubernetes API said last: %w", err)
	}
	defer func() { _ = f.Close() }()
	a := newAnswer(namespace)
	if err := json.NewDecoder(io.LimitReader(f, maxAnswer)).Decode(a); err != nil {
		// Not the error's own words: they may quote what the file holds.
		return nil, fmt.Errorf("read what the Kubernetes API said last: %s is not whole", f.Name())
	}
	return a, nil
}
