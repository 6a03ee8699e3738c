package build_test

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

func TestPush(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := smallImage(t)
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
	server.StartTLS()
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, c := range map[string]struct {
		ref  string
		opts build.PushOptions
		want string // in the error; empty: there is none
	}{
		"with the CA":         {ref: host + "/a/hotplate:v1", opts: build.PushOptions{CA: ca}},
		"to any certificate":  {ref: host + "/b/hotplate:v1", opts: build.PushOptions{Insecure: true}},
		"without the CA":      {ref: host + "/c/hotplate:v1", want: "x509"},
		"no certificate":      {ref: host + "/c/hotplate:v1", opts: build.PushOptions{CA: []byte("?")}, want: "no certificate"},
		"without a tag":       {ref: host + "/c/hotplate", opts: build.PushOptions{CA: ca}, want: "parse"},
		"without a registry":  {ref: "hotplate:v1", opts: build.PushOptions{CA: ca}, want: "parse"},
		"the same once again": {ref: host + "/a/hotplate:v1", opts: build.PushOptions{CA: ca}},
	} {
		got, err := r.Push(t.Context(), c.ref, c.opts)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: the error is %v, want one with %q", name, err, c.want)
			}
			continue
		}
		repository, _, _ := strings.Cut(c.ref, ":v1")
		if want := repository + "@" + r.Digest.String(); err != nil || got != want {
			t.Errorf("%s: pushed as %q, %v, want %q", name, got, err, want)
		}
	}
	server.Client().CloseIdleConnections()
	for _, repository := range []string{"a", "b"} {
		ref, err := name.ParseReference(host + "/" + repository + "/hotplate:v1")
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref, remote.WithTransport(server.Client().Transport))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := r.Index.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := index.RawManifest()
		if err != nil || !bytes.Equal(theirs, ours) {
			t.Errorf("%s has another index: %s, %v", ref, theirs, err)
		}
		if err := validate.Index(index); err != nil {
			t.Errorf("%s is not sound: %v", ref, err)
		}
	}
}
