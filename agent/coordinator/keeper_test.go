package coordinator

import (
	"encoding/pem"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hotplate-dev/hotplate/agent/report"
)

func newKeeper(t *testing.T, client *fake.Clientset, secret string) *Keeper {
	t.Helper()
	k, err := NewKeeper(KeeperConfig{ConfigMaps: client.CoreV1().ConfigMaps("hotplate"), Secrets: client.CoreV1().Secrets("hotplate"),
		TLSSecret: secret, URL: "https://192.0.2.1:8443", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func announcement(t *testing.T, client *fake.Clientset) map[string]string {
	t.Helper()
	is, err := client.CoreV1().ConfigMaps("hotplate").Get(t.Context(), report.CoordinatorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return is.Data
}

func TestTheLeaderAnnouncesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		k := newKeeper(t, client, "")
		if _, err := k.Certificate(nil); err == nil {
			t.Error("it has a certificate before it leads")
		}
		lead := func(k *Keeper) []byte {
			t.Helper()
			if err := k.Lead(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := k.Certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			said := announcement(t, client)
			if err := verify(t, c, []byte(said[report.CAKey]), time.Now(), report.CoordinatorName); err != nil || said[report.URLKey] != "https://192.0.2.1:8443" {
				t.Errorf("%v, %s", err, said[report.URLKey])
			}
			return c.Certificate[0]
		}
		first := lead(k)
		client.ClearActions()
		if string(lead(k)) != string(first) {
			t.Error("a new certificate each time")
		}
		for _, a := range client.Actions() {
			if a.GetVerb() != "get" {
				t.Errorf("nothing has changed, and it does %s %s", a.GetVerb(), a.GetResource().Resource)
			}
		}
		time.Sleep(servingLife * 3 / 4)
		if string(lead(k)) == string(first) {
			t.Error("the certificate runs out")
		}
		roots := announcement(t, client)[report.CAKey]
		time.Sleep(caLife * 3 / 4)
		lead(k)
		if now := announcement(t, client)[report.CAKey]; !strings.Contains(now, roots) || now == roots {
			t.Error("the CA is not renewed beside the old one")
		}
		// Another replica has a CA of its own, and the key of none is in a Secret.
		lead(newKeeper(t, client, ""))
		for _, a := range client.Actions() {
			if a.GetResource().Resource == "secrets" {
				t.Errorf("it does %s secrets", a.GetVerb())
			}
		}
	})
}

func TestACertificateOfSomebodyElses(t *testing.T) {
	a, _, err := authority{}.renew(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	served, err := a.sign(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{"ca.crt": a.announced(), "tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: served.Certificate[0]}),
		"tls.key": keyPEM(t, served.PrivateKey)}
	change := func(f func(map[string][]byte)) map[string][]byte {
		out := map[string][]byte{}
		for k, v := range good {
			out[k] = v
		}
		f(out)
		return out
	}
	for name, c := range map[string]struct {
		data map[string][]byte
		says string
	}{
		"good":          {good, ""},
		"without a CA":  {change(func(d map[string][]byte) { delete(d, "ca.crt") }), "has no ca.crt"},
		"without a key": {change(func(d map[string][]byte) { delete(d, "tls.key") }), "no certificate with its key"},
		"another name":  {change(func(d map[string][]byte) { d["tls.crt"], d["tls.key"] = a.announced(), keyPEM(t, a.now.key) }), "is not for the name"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: "hotplate"}, Data: c.data})
			err := newKeeper(t, client, "theirs").Lead(t.Context())
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if c.says == "" && announcement(t, client)[report.CAKey] != string(a.announced()) {
				t.Error("their CA is not announced")
			}
		})
	}
	if err := newKeeper(t, fake.NewClientset(), "theirs").Lead(t.Context()); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

func TestTheRolloutIsKept(t *testing.T) {
	client := fake.NewClientset()
	k := newKeeper(t, client, "")
	r, s, err := k.Rollout(t.Context())
	if err != nil || len(r.Holders) != 0 || s != (Said{}) {
		t.Fatal(r, s, err)
	}
	want := Rollout{Holders: map[string]Holder{"gpu-1": {UID: "u", Since: noon, Hash: "h", Held: true}}, Proven: "h0",
		Paused: &Pause{Time: noon, Node: "gpu-1", Reason: "because"}}
	for range 2 {
		if err := k.Keep(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	maps := client.CoreV1().ConfigMaps("hotplate")
	is, err := maps.Get(t.Context(), RolloutName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	is.Annotations = map[string]string{PauseAnnotation: "for the night", ResumeAnnotation: noon.Format(time.RFC3339)}
	if _, err := maps.Update(t.Context(), is, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	next := newKeeper(t, client, "")
	r, s, err = next.Rollout(t.Context())
	if err != nil || !reflect.DeepEqual(r, want) || s.Pause != "for the night" || !s.Resume.Equal(noon) {
		t.Errorf("%+v %+v %v", r, s, err)
	}
	if err := next.Keep(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if is, err = maps.Get(t.Context(), RolloutName, metav1.GetOptions{}); err != nil || is.Annotations[PauseAnnotation] == "" {
		t.Error("what a person has written is lost", err)
	}
	if _, _, err := next.Rollout(t.Context()); err != nil {
		t.Error(err)
	}
	is.Annotations[ResumeAnnotation], is.Data[RolloutKey] = "yesterday", "{"
	if _, err := maps.Update(t.Context(), is, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := next.Rollout(t.Context()); !errors.Is(err, errOvertaken) {
		t.Errorf("somebody else has written it: %v", err)
	}
	if _, _, err := newKeeper(t, client, "").Rollout(t.Context()); err == nil || !strings.Contains(err.Error(), "delete the key") {
		t.Error(err)
	}
}

// TestAnotherLeaderHasWritten: what the API server refuses is not taken for kept.
func TestAnotherLeaderHasWritten(t *testing.T) {
	client := fake.NewClientset()
	k := newKeeper(t, client, "")
	if err := k.Keep(t.Context(), Rollout{}); err != nil {
		t.Fatal(err)
	}
	client.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, RolloutName, nil)
	})
	if err := k.Keep(t.Context(), Rollout{Proven: "h"}); !apierrors.IsConflict(err) {
		t.Error(err)
	}
}
