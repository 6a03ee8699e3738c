package config

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// objects are ConfigMaps and Secrets in memory, by name.
type objects struct {
	configMaps, secrets map[string]map[string]string
}

func (o objects) ConfigMap(name string) (map[string][]byte, error) {
	return dataOf("ConfigMap", name, o.configMaps)
}

func (o objects) Secret(name string) (map[string][]byte, error) {
	return dataOf("Secret", name, o.secrets)
}

func dataOf(kind, name string, all map[string]map[string]string) (map[string][]byte, error) {
	texts, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("%s %q does not exist", kind, name)
	}
	data := map[string][]byte{}
	for key, text := range texts {
		data[key] = []byte(text)
	}
	return data, nil
}

const inCluster = `
registries:
- {host: quay.io, upstream: Deny, mirrors: [{url: "https://harbor.example.com", ca: [corp, lab], clientCert: node, credentials: docker}]}
certs:
  bundles:
  - {name: corp, configMap: {name: corp-ca}, secret: {name: extra, key: more}}
  - {name: lab, configMap: {name: corp-ca, key: two.crt}}
  keyPairs: [{name: node, secret: node-tls}]
credentials: [{name: docker, secret: hub}, {name: robot, secret: robot}]
`

// inMemory are the objects that inCluster names.
func inMemory(t *testing.T) objects {
	t.Helper()
	one, oneKey := issue(t, "one")
	two, _ := issue(t, "two")
	three, _ := issue(t, "three")
	return objects{
		configMaps: map[string]map[string]string{"corp-ca": {"one.pem": one, "two.crt": two, "README": "no certificate"}},
		secrets: map[string]map[string]string{
			"extra":    {"more": three},
			"node-tls": {"tls.crt": one, "tls.key": oneKey},
			"hub":      {".dockerconfigjson": `{"auths": {"harbor.example.com": ` + auth("hub", "hunter2") + `}, "credsStore": "desktop"}`},
			"robot":    {"username": "robot$models\n", "password": "hunter2\n"},
		},
	}
}

func TestReadTakesObjectsOfTheCluster(t *testing.T) {
	held := inMemory(t)
	s := Read("ConfigMap", document(inCluster), held)
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	if corp, lab := s.Bundles["corp"].Len(), s.Bundles["lab"].Len(); corp != 3 || lab != 1 {
		t.Errorf("the bundles hold %d and %d certificates; want 3 and 1", corp, lab)
	}
	if got := string(s.KeyPairs["node"].CertPEM()); got != held.secrets["node-tls"]["tls.crt"] {
		t.Errorf("the key pair has the certificate\n%s", got)
	}
	if got, _ := s.Logins["docker"].Login("harbor.example.com"); got != (Login{"hub", "hunter2"}) {
		t.Errorf("the login of a docker config is %q", got.Username)
	}
	if got, _ := s.Logins["robot"].Login("anywhere.example.com"); got != (Login{"robot$models", "hunter2"}) {
		t.Errorf("the basic login is %q", got.Username)
	}
	want := []string{`credentials: login "docker": Secret "hub": credsStore "desktop" is not used: hotplate runs no credential helpers`}
	if diff := cmp.Diff(want, s.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	configMaps, secrets := s.Config.ObjectNames()
	if diff := cmp.Diff([][]string{{"corp-ca"}, {"extra", "hub", "node-tls", "robot"}}, [][]string{configMaps, secrets}); diff != "" {
		t.Errorf("names of objects (-want +got):\n%s", diff)
	}
}

// Content goes by what objects mean; the hash by the document alone.
func TestAnotherObjectIsAnotherContent(t *testing.T) {
	held := inMemory(t)
	key := []byte("key")
	read := func() Snapshot { return Read("ConfigMap", document(inCluster), held) }
	first := read()
	held.configMaps["corp-ca"]["README"] = "still none"
	held.configMaps["corp-ca"]["one.pem"] += "\n"
	if read().Sum(key) != first.Sum(key) {
		t.Error("what means the same is another content")
	}
	four, fourKey := issue(t, "four")
	whole := inMemory(t)
	for what, change := range map[string]func(){
		"ConfigMap with a CA": func() { held.configMaps["corp-ca"]["one.pem"] = four },
		"Secret with a CA":    func() { held.secrets["extra"]["more"] = four },
		"key pair":            func() { held.secrets["node-tls"] = map[string]string{"tls.crt": four, "tls.key": fourKey} },
		"password":            func() { held.secrets["robot"]["password"] = "hunter3" },
		"docker config": func() {
			held.secrets["hub"][".dockerconfigjson"] = `{"auths": {"harbor.example.com": ` + auth("hub", "hunter3") + `}}`
		},
		"object that is gone": func() { delete(held.secrets, "robot") },
	} {
		held = objects{configMaps: deepCopy(whole.configMaps), secrets: deepCopy(whole.secrets)}
		before := read()
		change()
		after := read()
		if before.Sum(key) == after.Sum(key) {
			t.Errorf("%s: the content is the same", what)
		}
		if before.Hash != after.Hash {
			t.Errorf("%s: the hash of the document is another one", what)
		}
	}
}

func deepCopy(all map[string]map[string]string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for name, data := range all {
		out[name] = maps.Clone(data)
	}
	return out
}

func TestReadReportsEverythingThatIsWrongWithObjects(t *testing.T) {
	one, _ := issue(t, "one")
	_, otherKey := issue(t, "other")
	text := `
certs:
  bundles:
  - {name: absent, configMap: {name: absent}, secret: {name: absent}}
  - {name: no-key, configMap: {name: one, key: ca.crt}}
  - {name: no-pem, secret: {name: opaque}}
  - {name: garbage, configMap: {name: garbage}}
  - {name: empty, configMap: {name: empty}}
  keyPairs: [{name: half, secret: half}, {name: mismatch, secret: mismatch}]
credentials:
- {name: opaque, secret: opaque}
- {name: two, secret: two}
- {name: broken, secret: broken}
- {name: nobody, secret: nobody}
`
	s := Read("ConfigMap", document(text), objects{
		configMaps: map[string]map[string]string{"one": {"one.pem": one}, "garbage": {"a.pem": "hunter2"}, "empty": {}},
		secrets: map[string]map[string]string{
			"opaque":   {"token": "hunter2"},
			"half":     {"tls.crt": one},
			"mismatch": {"tls.crt": one, "tls.key": otherKey},
			"two":      {".dockerconfigjson": "{}", "username": "a", "password": "hunter2"},
			"broken":   {".dockerconfigjson": `{"auths": {"a": {"auth": "hunter2"}}}`},
			"nobody":   {"username": "robot:hunter2", "password": "\n"},
		},
	})
	if s.Err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`bundle "absent": ConfigMap "absent" does not exist`,
		`Secret "absent" does not exist`,
		`bundle "no-key": ConfigMap "one": it has no key "ca.crt"; it has "one.pem"`,
		`bundle "no-pem": Secret "opaque": it has no key that ends in .pem, .crt or .cer; it has "token"`,
		`bundle "garbage": ConfigMap "garbage": key "a.pem": `,
		`bundle "empty": ConfigMap "empty": it has no key that ends in .pem, .crt or .cer; it is empty`,
		`key pair "half": Secret "half": a key pair needs the keys tls.crt and tls.key`,
		`key pair "mismatch": Secret "mismatch": the private key does not belong`,
		`login "opaque": Secret "opaque": a login needs the key .dockerconfigjson`,
		`login "two": Secret "two": it has .dockerconfigjson beside username or password`,
		`login "broken": Secret "broken": key .dockerconfigjson: the login for "a"`,
		`Secret "nobody": key username holds a colon`,
		`Secret "nobody": key password is empty`,
	} {
		if !strings.Contains(s.Err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, s.Err)
		}
	}
	if strings.Contains(s.Err.Error(), "hunter2") {
		t.Errorf("the error shows a secret:\n%v", s.Err)
	}
}

func TestThereAreNoObjectsOutsideOfACluster(t *testing.T) {
	s := Read("config.yaml", document(inCluster), nil)
	if !errors.Is(s.Err, ErrOnlyInCluster) {
		t.Errorf("got %v", s.Err)
	}
	for _, want := range []string{`bundle "corp": ConfigMap "corp-ca": there is one only in a cluster; use file here`,
		`key pair "node": Secret "node-tls": there`, `login "docker": Secret "hub": there`} {
		if !strings.Contains(s.Err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, s.Err)
		}
	}
}

func TestADocumentNamesAFewObjects(t *testing.T) {
	var text strings.Builder
	text.WriteString("certs:\n  bundles:\n")
	for i := range maxObjects + 1 {
		fmt.Fprintf(&text, "  - {name: b%d, configMap: {name: same}, secret: {name: s%d}}\n", i, i)
	}
	_, err := Decode("f", document(text.String()))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("names %d ConfigMaps and Secrets; name at most %d", maxObjects+2, maxObjects)) {
		t.Errorf("got %v", err)
	}
}
