package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
)

// fakeAPI is an API in memory, as the agent sees it. It fails the test when it is asked for anything but single objects of
// one namespace.
type fakeAPI struct {
	t *testing.T

	mu      sync.Mutex // guards what follows
	fails   error      // what every question ends with
	watches []watch.Interface
}

// ours is the clientset of the agent; admin shares its objects and is not policed.
func newFakeAPI(t *testing.T) (api *fakeAPI, agent, admin *fake.Clientset) {
	api = &fakeAPI{t: t}
	agent = fake.NewClientset()
	admin = fake.NewClientset()
	tracker := agent.Tracker()
	admin.PrependReactor("*", "*", clienttesting.ObjectReaction(tracker))
	agent.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		api.police(a)
		api.mu.Lock()
		defer api.mu.Unlock()
		return api.fails != nil, nil, api.fails
	})
	agent.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		api.police(a)
		api.mu.Lock()
		defer api.mu.Unlock()
		if api.fails != nil {
			return true, nil, api.fails
		}
		w, err := tracker.Watch(a.GetResource(), a.GetNamespace())
		if err == nil {
			api.watches = append(api.watches, w)
		}
		return true, w, err
	})
	return api, agent, admin
}

func (api *fakeAPI) police(a clienttesting.Action) {
	if a.GetNamespace() != "hotplate" {
		api.t.Errorf("%s of %s in the namespace %q", a.GetVerb(), a.GetResource().Resource, a.GetNamespace())
	}
	if r := a.GetResource().Resource; r != "configmaps" && r != "secrets" {
		api.t.Errorf("%s of %s", a.GetVerb(), r)
	}
	selects := func(requirements string) {
		if !strings.HasPrefix(requirements, "metadata.name=") {
			api.t.Errorf("%s of more than one object: %q", a.GetVerb(), requirements)
		}
	}
	switch a := a.(type) {
	case clienttesting.ListAction:
		selects(a.GetListRestrictions().Fields.String())
	case clienttesting.WatchAction:
		selects(a.GetWatchRestrictions().Fields.String())
	case clienttesting.GetAction:
	default:
		api.t.Errorf("the agent does %s", a.GetVerb())
	}
}

// fail lets every question fail, and ends every watch; nil heals it.
func (api *fakeAPI) fail(err error) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.fails = err
	for _, w := range api.watches {
		w.Stop()
	}
	api.watches = nil
}

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}

// inMemory runs f with an API in memory and time that is not real.
func inMemory(t *testing.T, f func(s *suite, api *fakeAPI)) {
	synctest.Test(t, func(t *testing.T) {
		api, agent, admin := newFakeAPI(t)
		f(&suite{t: t, admin: admin, agent: agent, namespace: "hotplate", patience: time.Minute, quiet: time.Minute,
			runDir: filepath.Join(t.TempDir(), "run"), log: new(agenttest.Log),
			away: func(away bool) {
				if api.fail(nil); away {
					api.fail(errRefused)
				}
			}}, api)
	})
}

func TestSource(t *testing.T) {
	for name, row := range rows() {
		t.Run(name, func(t *testing.T) { inMemory(t, func(s *suite, _ *fakeAPI) { row(s) }) })
	}
}

// What the agent may not read is a fault that names it, and no reason to believe that the API is away.
func TestWhatTheAgentMayNotReadIsNamed(t *testing.T) {
	inMemory(t, func(s *suite, api *fakeAPI) {
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "hotplate-config", errors.New("no role"))
		api.fail(forbidden)
		source := s.source()
		s.fault(s.next(source), "ConfigMap hotplate-config: the Kubernetes API does not let the agent read it", "forbidden")
		api.fail(nil)
		s.document(withImage("a"))
		if got := s.until(source, "with the image", hasImage("a")); got.Err != nil {
			s.t.Error(got.Err)
		}
	})
}

// An API that takes the question and does not answer is as good as away.
func TestTheStartDoesNotWaitForLong(t *testing.T) {
	inMemory(t, func(s *suite, api *fakeAPI) {
		api.fail(errRefused)
		began := time.Now()
		s.next(s.source())
		if d := time.Since(began); d < patience || d > patience+time.Second {
			s.t.Errorf("the first snapshot came after %s", d)
		}
	})
}

func TestAnAnswerThatIsNotWholeIsNotUsed(t *testing.T) {
	inMemory(t, func(s *suite, _ *fakeAPI) {
		s.document(withImage("a"))
		before := s.source()
		s.next(before)
		s.close(before)
		path := filepath.Join(s.runDir, answerName)
		whole, err := os.ReadFile(path)
		if err != nil {
			s.t.Fatal(err)
		}
		for n := range 20 {
			if err := os.WriteFile(path, whole[:len(whole)*n/20], 0o600); err != nil {
				s.t.Fatal(err)
			}
			s.away(true)
			source := s.source()
			s.fault(s.next(source), "the Kubernetes API does not answer")
			s.close(source)
			s.away(false)
		}
		s.lines(20, "the agent needs the Kubernetes API to start")
	})
}

func TestARunDirectoryThatCannotBeWrittenIsTold(t *testing.T) {
	inMemory(t, func(s *suite, _ *fakeAPI) {
		if err := os.WriteFile(s.runDir, nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.document(withImage("a"))
		source := s.source()
		if got := s.next(source); image(got) != "a" {
			s.t.Errorf("image %q, %v", image(got), got.Err)
		}
		s.lines(1, "an agent that starts while the Kubernetes API is away would have only the last good document")
	})
}

func TestASourceThatIsClosedSaysSo(t *testing.T) {
	inMemory(t, func(s *suite, _ *fakeAPI) {
		source := s.source()
		s.next(source)
		s.close(source)
		if _, err := source.Next(s.t.Context()); !errors.Is(err, os.ErrClosed) {
			s.t.Errorf("got %v", err)
		}
	})
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Client is required") {
		t.Errorf("without anything: %v", err)
	}
}

// client-go says as much as it likes.
func TestLinesOfClientGoAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(agenttest.Log)
		theirs := clientLogger(log.Logger())
		for i := range 100 {
			theirs.Error(errors.New(strings.Repeat("x", 10000)), "Failed to watch", "reflector", i)
		}
		theirs.Info("details")
		if got := log.Lines("level=WARN", "from=client-go"); len(got) != maxLines || len(got[0]) > 2*maxText {
			t.Errorf("%d lines, the first of %d bytes", len(got), len(got[0]))
		}
		time.Sleep(time.Minute)
		theirs.Error(errors.New("x"), "once more")
		theirs.V(5).Info("what nobody wants to know")
		if got := log.Lines("level=WARN", "once more", fmt.Sprintf("leftOut=%d", 100-maxLines)); len(got) != 1 {
			t.Errorf("then it says %q", log.Lines())
		}
		if got := log.Lines("level=DEBUG"); len(got) != 1 || !strings.Contains(got[0], "details") {
			t.Errorf("of details it says %q", got)
		}
		if slog.New(newBounded(slog.DiscardHandler)).Enabled(t.Context(), slog.LevelError) {
			t.Error("what goes nowhere is made")
		}
	})
}

// certificate is a CA in PEM.
func certificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
