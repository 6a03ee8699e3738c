package configtoml_test

import (
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

const dump = `version = 2
imports = ["/etc/containerd/config.toml", "/etc/containerd/conf.d/a.toml"]
root = "/var/lib/containerd"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "pause"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = ""
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
endpoint = ["https://m.example.com"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."r.example.com".auth]
password = "swordfish"
[plugins."io.containerd.grpc.v1.cri".registry.configs."r.example.com".tls]
insecure_skip_verify = true
[plugins."io.containerd.grpc.v1.cri".registry.configs."s.example.com".tls]
insecure_skip_verify = true
`

func TestOnlyRegistryDiffers(t *testing.T) {
	noMirrors := strings.NewReplacer("[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = "+
		"[\"https://m.example.com\"]", "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]")
	noTLS := strings.NewReplacer("[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r.example.com\".tls]\n"+
		"insecure_skip_verify = true\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"s.example.com\".tls]\n"+
		"insecure_skip_verify = true\n", "")
	for name, tc := range map[string]struct {
		after string
		want  []string // in the error; nil for none
	}{
		"nothing":          {after: dump},
		"config_path":      {after: strings.Replace(dump, `config_path = ""`, `config_path = "/c"`, 1)},
		"mirrors go":       {after: noMirrors.Replace(dump)},
		"TLS goes":         {after: noTLS.Replace(dump)},
		"both go":          {after: noTLS.Replace(noMirrors.Replace(dump))},
		"another order":    {after: strings.Replace(dump, `"/etc/containerd/config.toml", "/etc/containerd/conf.d/a.toml"`, `"/etc/containerd/conf.d/a.toml", "/etc/containerd/config.toml"`, 1)},
		"a staged file":    {after: strings.Replace(dump, `"/etc/containerd/config.toml"`, `"/etc/containerd/.config.toml.new"`, 1)},
		"an import less":   {after: strings.Replace(dump, `, "/etc/containerd/conf.d/a.toml"`, "", 1), want: []string{"imports"}},
		"other imports":    {after: strings.ReplaceAll(dump, "/etc/containerd/", "/opt/"), want: []string{"imports"}},
		"another key":      {after: strings.Replace(dump, "pause", "other", 1), want: []string{"plugins.\"io.containerd.grpc.v1.cri\".sandbox_image"}},
		"a key less":       {after: strings.Replace(dump, `sandbox_image = "pause"`, "", 1), want: []string{"sandbox_image"}},
		"a key more":       {after: "oom_score = 1\n" + dump, want: []string{"oom_score"}},
		"the version":      {after: strings.Replace(dump, "version = 2", "version = 3", 1), want: []string{"version"}},
		"a mirror changes": {after: strings.Replace(dump, "m.example.com", "n.example.com", 1), want: []string{"mirrors.\"docker.io\".endpoint"}},
		"a login changes":  {after: strings.Replace(dump, "swordfish", "marlin", 1), want: []string{"configs.\"r.example.com\".auth.password"}},
		"a login goes":     {after: strings.Replace(dump, `password = "swordfish"`, "", 1), want: []string{"configs"}},
		"one TLS of two goes": {
			after: strings.Replace(dump, "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"s.example.com\".tls]\n"+
				"insecure_skip_verify = true\n", "", 1), want: []string{"configs.\"s.example.com\""},
		},
		"not TOML": {after: "password = swordfish", want: []string{"dump 2"}},
		"too much": {after: strings.Repeat("#", 1<<20+1), want: []string{"dump 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := configtoml.OnlyRegistryDiffers([]byte(dump), []byte(tc.after))
			if tc.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %s", err, want)
				}
			}
			for _, secret := range []string{"swordfish", "marlin"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q tells a secret", err)
				}
			}
		})
	}
	// What may go may not come.
	if err := configtoml.OnlyRegistryDiffers([]byte(noMirrors.Replace(dump)), []byte(dump)); err == nil {
		t.Error("mirrors may come")
	}
	if err := configtoml.OnlyRegistryDiffers([]byte(noTLS.Replace(dump)), []byte(dump)); err == nil {
		t.Error("configs.*.tls may come")
	}
}
