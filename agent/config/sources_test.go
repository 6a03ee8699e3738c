package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// issue makes a certificate that signs itself, and its key.
func issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * 365 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// put writes a file, and the directories that it is in.
func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadCertsMergesWhatABundleNames(t *testing.T) {
	dir := t.TempDir()
	one, oneKey := issue(t, "one")
	two, _ := issue(t, "two")
	three, threeKey := issue(t, "three")
	cfg := &Config{Certs: Certs{
		Bundles: []BundleSource{
			{Name: "all", PEM: one, File: put(t, filepath.Join(dir, "two.pem"), two), Dir: filepath.Join(dir, "more")},
			{Name: "inline", PEM: one},
		},
		KeyPairs: []KeyPairSource{
			{Name: "inline", Cert: one, Key: Secret(oneKey)},
			{Name: "mixed", Cert: three, KeyFile: put(t, filepath.Join(dir, "tls.key"), threeKey)},
		},
	}}
	put(t, filepath.Join(dir, "more", "three.crt"), three+one)
	put(t, filepath.Join(dir, "more", "README"), "not a certificate")
	bundles, pairs, err := LoadCerts(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all, inline := bundles["all"].Len(), bundles["inline"].Len(); all != 3 || inline != 1 || len(bundles) != 2 {
		t.Errorf("the bundles hold %d and %d certificates; want 3 and 1", all, inline)
	}
	if got := string(pairs["mixed"].CertPEM()); got != three || len(pairs) != 2 {
		t.Errorf("the pair from a file and a field has the certificate\n%s", got)
	}
}

func TestLoadCertsReportsEverythingThatIsWrong(t *testing.T) {
	dir := t.TempDir()
	good, _ := issue(t, "good")
	_, otherKey := issue(t, "other")
	cfg := &Config{Certs: Certs{
		Bundles: []BundleSource{
			{Name: "absent", File: filepath.Join(dir, "absent.pem"), Dir: filepath.Join(dir, "absent")},
			{Name: "good", PEM: good},
		},
		KeyPairs: []KeyPairSource{
			{Name: "mismatch", Cert: good, Key: Secret(otherKey)},
			{Name: "directory", Cert: good, KeyFile: dir},
		},
	}}
	bundles, pairs, err := LoadCerts(cfg, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`bundle "absent": read bundle: open ` + dir + "/absent.pem: no such file",
		`read bundle directory "` + dir + `/absent"`,
		`key pair "mismatch": the private key does not belong`,
		`key pair "directory": read ` + dir + ": not a regular file",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	if len(bundles) != 1 || len(pairs) != 0 {
		t.Errorf("there are %d bundles and %d pairs; want the good bundle", len(bundles), len(pairs))
	}
}

func TestLoadCredentials(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string { return put(t, filepath.Join(dir, name), text) }
	cfg := &Config{Credentials: []Credential{
		{Name: "robot", UsernameFile: file("user", " robot$models\n"), PasswordFile: file("password", " pass word \r\n")},
		{Name: "docker", DockerConfigFile: file("config.json",
			`{"auths": {"a.example.com:8443": `+auth("a", "pw")+`}, "credsStore": "desktop"}`)},
	}}
	cfg.Registries = []Registry{{Host: "quay.example.com", Credentials: "docker", Mirrors: []Mirror{
		{URL: "https://a.example.com:8443", Credentials: "docker", ExposeToNode: true},
		{URL: "https://b.example.com", Credentials: "docker"},
		{URL: "https://b.example.com", Credentials: "robot", ExposeToNode: true},
	}}}
	logins, warnings, err := LoadCredentials(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := logins["robot"].Login("anywhere.example.com"); !ok || got != (Login{"robot$models", " pass word "}) {
		t.Errorf("the login from files is %q %q, %v", got.Username, string(got.Password), ok)
	}
	if got, ok := logins["docker"].Login("a.example.com:8443"); !ok || got != (Login{"a", "pw"}) {
		t.Errorf("the login from docker's config is %q %q, %v", got.Username, string(got.Password), ok)
	}
	want := []string{
		`credentials: login "docker": ` + dir + `/config.json: credsStore "desktop" is not used: hotplate runs no ` +
			`credential helpers`,
		`registries[0]: login "docker" has no entry for quay.example.com: requests there will be anonymous`,
		`registries[0].mirrors[1]: login "docker" has no entry for b.example.com: requests there will be anonymous`,
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Errorf("warnings differ (-want +got):\n%s", diff)
	}
}

func TestLoadCredentialsReportsEverythingThatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string { return put(t, filepath.Join(dir, name), text) }
	cfg := &Config{Credentials: []Credential{
		{Name: "absent", DockerConfigFile: filepath.Join(dir, "absent")},
		{Name: "broken", DockerConfigFile: file("broken", `{"auths": {"a": {"auth": "hunter2"}}}`)},
		{Name: "empty", UsernameFile: file("empty", "\n"), PasswordFile: file("empty2", "\n")},
		{Name: "whole", UsernameFile: file("whole", "robot:hunter2"), PasswordFile: file("password", "hunter2")},
		{Name: "long", UsernameFile: file("long", strings.Repeat("x", maxSource+1)), PasswordFile: dir},
		{Name: "token", DockerConfigFile: file("token", `{"auths": {"a.example.com": {"identitytoken": "hunter2"}}}`)},
	}}
	cfg.Registries = []Registry{{Host: "quay.example.com", Mirrors: []Mirror{
		{URL: "https://a.example.com", Credentials: "token", ExposeToNode: true},
		{URL: "https://b.example.com", Credentials: "token", ExposeToNode: true},
	}}}
	logins, _, err := LoadCredentials(cfg, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`login "absent": open ` + dir + "/absent: no such file",
		`login "broken": ` + dir + `/broken: the login for "a"`,
		dir + "/empty is empty; write the user's name",
		dir + "/empty2 is empty; write the password",
		`login "whole": ` + dir + "/whole holds a colon",
		`login "long": read ` + dir + "/long: more than 1048576 bytes",
		"read " + dir + ": not a regular file",
		`registries[0].mirrors[0]: exposeToNode: login "token": the login is an identity token`,
		`registries[0].mirrors[1]: exposeToNode: login "token" has no entry for b.example.com; add one`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a secret:\n%v", err)
	}
	if len(logins) != 1 {
		t.Errorf("there are %d logins; want the one that could be read", len(logins))
	}
}
