package coordinator

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func requestMap(name, text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "hotplate", Labels: map[string]string{RequestLabel: "true"}},
		Data: map[string]string{RequestKey: text}}
}

func TestParseRequest(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"least":         {`{"ref":"registry.example.com/a:v1"}`, ""},
		"everything":    {`{"ref":"registry.example.com/a:v1","aliases":["a:v1"],"platform":"linux/amd64","priority":3,"nodeSelector":{"pool":"gpu"},"nodes":["n"]}`, ""},
		"nothing":       {"", "EOF"},
		"no ref":        {"{}", "not an image reference"},
		"a wrong ref":   {`{"ref":"UPPER/:"}`, "not an image reference"},
		"a wrong alias": {`{"ref":"a:v1","aliases":["B:"]}`, "alias is"},
		"unknown":       {`{"ref":"a:v1","reff":1}`, "unknown field"},
		"two":           {`{"ref":"a:v1"}{}`, "something behind"},
		"many nodes":    {`{"ref":"a:v1","nodes":["n"` + strings.Repeat(`,"n"`, maxRequestNodes) + `]}`, "use nodeSelector"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRequest(requestMap("r", c.text))
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if err == nil && (r.Name != "r" || !strings.HasPrefix(r.Image.Name, "a-") || r.Image.Pin == nil) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestRequestsComeAndGo(t *testing.T) {
	other := requestMap("other", `{"ref":"a:v1"}`)
	other.Labels = nil
	client := fake.NewClientset(other, requestMap("bad", "{"), requestMap("good", `{"ref":"a:v1"}`))
	var changed atomic.Int32
	r, err := newRequests(client, "hotplate", func() { changed.Add(1) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer r.stop()
	defer cancel()
	if err := r.start(ctx); err != nil {
		t.Fatal(err)
	}
	if all := r.all(); len(all) != 1 || all[0].Name != "good" || r.told["bad"] == "" {
		t.Errorf("%+v, %v", all, r.told)
	}
	if err := client.CoreV1().ConfigMaps("hotplate").Delete(t.Context(), "good", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the request is gone", func() bool { return changed.Load() >= 3 && len(r.all()) == 0 })
}
