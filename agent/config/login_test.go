package config

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// auth is an entry of a docker config JSON.
func auth(user, password string) string {
	return fmt.Sprintf(`{"auth": %q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func TestDockerConfigMatchesHostsAsDockerAndKubernetesDo(t *testing.T) {
	robot := Login{"robot", "pw"}
	for name, test := range map[string]struct {
		key       string
		hosts     []string
		notOthers []string
	}{
		"a host": {
			key: "harbor.example.com", hosts: []string{"harbor.example.com", "HARBOR.example.com"},
			notOthers: []string{"harbor.example.com:443", "example.com", "a.harbor.example.com"},
		},
		"a host and a port": {
			key: "harbor.example.com:8443", hosts: []string{"harbor.example.com:8443"},
			notOthers: []string{"harbor.example.com", "harbor.example.com:443"},
		},
		"a URL": {key: "https://harbor.example.com", hosts: []string{"harbor.example.com"}},
		"a URL of the first API": {
			key: "https://harbor.example.com/v1/", hosts: []string{"harbor.example.com"},
		},
		"a URL of the second API": {key: "http://harbor.example.com/v2", hosts: []string{"harbor.example.com"}},
		"Docker Hub as docker login writes it": {
			key:   "https://index.docker.io/v1/",
			hosts: []string{"docker.io", "index.docker.io", "registry-1.docker.io"}, notOthers: []string{"auth.docker.io"},
		},
		"Docker Hub by its short name": {key: "docker.io", hosts: []string{"registry-1.docker.io"}},
		"one path on a host":           {key: "harbor.example.com/models", hosts: []string{"harbor.example.com"}},
		"an address": {
			key: "[fd00::1]:5000", hosts: []string{"[fd00::1]:5000"}, notOthers: []string{"[fd00::1]", "[fd00::2]:5000"},
		},
		"a pattern": {
			key: "*.example.com", hosts: []string{"a.example.com", "b.example.com"},
			notOthers: []string{"example.com", "a.b.example.com", "a.example.com:5000"},
		},
		"a pattern and a port": {
			key: "https://*.example.com:5000", hosts: []string{"a.example.com:5000"}, notOthers: []string{"a.example.com"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseDockerConfig(fmt.Appendf(nil, `{"auths": {%q: %s}}`, test.key, auth("robot", "pw")))
			if err != nil {
				t.Fatal(err)
			}
			for _, host := range test.hosts {
				if got, ok := c.Login(host); !ok || got != robot {
					t.Errorf("the login for %s is %q, %v", host, got.Username, ok)
				}
			}
			for _, host := range test.notOthers {
				if _, ok := c.Login(host); ok {
					t.Errorf("there is a login for %s", host)
				}
			}
			if len(c.Warnings()) > 0 {
				t.Errorf("warnings: %q", c.Warnings())
			}
		})
	}
}

func TestDockerConfigChoosesAndWarns(t *testing.T) {
	for name, test := range map[string]struct {
		text     string
		login    Login // for a.example.com; the zero Login for none
		warnings []string
	}{
		"user and password apart": {
			text:  `{"auths": {"a.example.com": {"username": "robot", "password": "pw"}}}`,
			login: Login{"robot", "pw"},
		},
		"a password with colons": {
			text: `{"auths": {"a.example.com": ` + auth("robot", "a:b") + `}}`, login: Login{"robot", "a:b"},
		},
		"an identity token has no user": {
			text:  `{"auths": {"a.example.com": {"auth": "dTpw", "identitytoken": "token"}}}`,
			login: Login{"", "token"},
		},
		"the exact host before a pattern": {
			text:  `{"auths": {"*.example.com": ` + auth("any", "pw") + `, "a.example.com": ` + auth("robot", "pw") + `}}`,
			login: Login{"robot", "pw"},
		},
		"the longer pattern before the shorter": {
			text:  `{"auths": {"*.*.com": ` + auth("any", "pw") + `, "*.example.com": ` + auth("robot", "pw") + `}}`,
			login: Login{"robot", "pw"},
		},
		"two entries for one host": {
			text:  `{"auths": {"https://a.example.com": ` + auth("b", "pw") + `, "a.example.com": ` + auth("a", "pw") + `}}`,
			login: Login{"a", "pw"},
			warnings: []string{`the entries "a.example.com" and "https://a.example.com" are for the same host: the first ` +
				`is used`},
		},
		"two paths with one login": {
			text:  `{"auths": {"a.example.com/x": ` + auth("robot", "pw") + `, "a.example.com/y": ` + auth("robot", "pw") + `}}`,
			login: Login{"robot", "pw"},
		},
		"two paths with two logins": {
			text: `{"auths": {"a.example.com/x": ` + auth("x", "pw") + `, "a.example.com/y": ` + auth("y", "pw") + `}}`,
			warnings: []string{`the entries for "a.example.com" have different logins for different paths: none is used, as ` +
				`logins are looked up by host`},
		},
		"a path beside its host": {
			text:  `{"auths": {"a.example.com": ` + auth("a", "pw") + `, "a.example.com/y": ` + auth("y", "pw") + `}}`,
			login: Login{"a", "pw"},
			warnings: []string{`the entries for paths on "a.example.com" are not used: logins are looked up by host, and it ` +
				`has one`},
		},
		"credential helpers": {
			text: `{"credsStore": "desktop", "credHelpers": {"a.example.com": "ecr-login"}}`,
			warnings: []string{`credsStore "desktop" is not used: hotplate runs no credential helpers`,
				`the credential helper for "a.example.com" is not used: hotplate runs none`},
		},
		"an entry without a login": {
			text: `{"auths": {"a.example.com": {}, "b.example.com": {"registrytoken": "hunter2"}}}`,
			warnings: []string{
				`the entry for "a.example.com" holds neither user and password nor an identity token: not used`,
				`the entry for "b.example.com" holds neither user and password nor an identity token: not used`,
			},
		},
		"no entries": {text: `{"auths": {}}`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseDockerConfig([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := c.Login("a.example.com"); got != test.login || ok != (test.login != Login{}) {
				t.Errorf("the login is %q %q, %v; want %q %q", got.Username, string(got.Password), ok,
					test.login.Username, string(test.login.Password))
			}
			if diff := cmp.Diff(test.warnings, c.Warnings()); diff != "" {
				t.Errorf("warnings differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDockerConfigRefusesWhatItCannotRead(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"not JSON":                  {`{"auths": {"hunter2"}}`, "it is not a docker config JSON: wrong at byte 21"},
		"no auths":                  {`{"a.example.com": {"auth": "aHVudGVyMg=="}}`, `it has no "auths"`},
		"auths that are text":       {`{"auths": "hunter2"}`, `"auths" is of the wrong type`},
		"auth that is not base64":   {`{"auths": {"a": {"auth": "hunter2!"}}}`, `the login for "a": its fields`},
		"auth that has no colon":    {`{"auths": {"a": {"auth": "aHVudGVyMg=="}}}`, `the login for "a": its fields`},
		"a password that is a list": {`{"auths": {"a": {"password": ["hunter2"]}}}`, `the login for "a": its fields`},
		"all faults":                {`{"auths": {"a": 1, "b": 2}}`, `the login for "b": its fields`},
		"more than 1 MiB":           {strings.Repeat(" ", maxSource+1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDockerConfig([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("the error is %v; want something with %s", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestLoginAsAHeader(t *testing.T) {
	got, err := Login{"robot", "a:b"}.Authorization()
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("robot:a:b")); err != nil || string(got) != want {
		t.Errorf("the header is %q, %v; want %q", string(got), err, want)
	}
	if _, err := (Login{"", "token"}).Authorization(); err == nil {
		t.Error("an identity token became a header")
	}
}

func FuzzParseDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths": {"https://index.docker.io/v1/": `+auth("robot", "pw")+`}}`), "docker.io")
	f.Add([]byte(`{"auths": {"*.[a-": {"identitytoken": "x"}}, "credsStore": "x", "credHelpers": {"a": "b"}}`), "a.b")
	f.Add([]byte(`{"auths": null}`), "[fd00::1]:5000")
	f.Fuzz(func(t *testing.T, data []byte, host string) {
		c, err := ParseDockerConfig(data)
		if err != nil {
			return
		}
		if login, ok := c.Login(host); ok && login.Password == "" {
			t.Error("a login without a password")
		}
	})
}
