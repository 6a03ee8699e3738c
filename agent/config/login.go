package config

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Login is what a registry asks for. It can be printed and logged: the password is a Secret.
type Login struct {
	// Username is the user's name. It is empty where Password is an identity token, as containerd expects it: an
	// empty user with a secret makes it ask the token server with a refresh token.
	Username string
	// Password is the password, or the identity token.
	Password Secret
}

// Authorization is the value of a header that sends the login without being asked: Basic and so on. A login with an
// identity token has none, because only a token server can take that.
func (l Login) Authorization() (Secret, error) {
	if l.Username == "" {
		return "", errors.New("the login is an identity token, which no header can carry; use user and password")
	}
	return Secret("Basic " + base64.StdEncoding.EncodeToString([]byte(l.Username+":"+string(l.Password)))), nil
}

// Logins is what one entry of the config's credentials holds. It is immutable and safe for concurrent use; the zero
// Logins holds none.
type Logins struct {
	single *Login // for every host
	docker DockerConfig
}

// Login is the login for a host, written as in a URL: host or host:port.
func (l Logins) Login(host string) (Login, bool) {
	if l.single != nil {
		return *l.single, true
	}
	return l.docker.Login(host)
}

// Format says how many logins there are, and none of them.
func (l Logins) Format(f fmt.State, _ rune) {
	if l.single != nil {
		_, _ = io.WriteString(f, "[1 login]")
		return
	}
	l.docker.Format(f, 'v')
}

// Warnings says what in the files is not used, and why.
func (l Logins) Warnings() []string { return l.docker.Warnings() }

// DockerConfig is the logins of a docker config JSON. It is immutable and safe for concurrent use; the zero
// DockerConfig holds none.
type DockerConfig struct {
	exact    map[string]Login // by canonical host
	patterns []pattern        // the most specific first
	warnings []string
}

// Format says how many logins there are, and none of them.
func (c DockerConfig) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "[%d logins]", len(c.exact)+len(c.patterns))
}

// pattern is a login for all hosts that match, such as *.example.com.
type pattern struct {
	host  string
	login Login
}

// ParseDockerConfig reads a docker config JSON, as docker login writes it and a Secret of type
// kubernetes.io/dockerconfigjson holds it. Credential helpers in it are not run: they are programs of the machine that
// the file was written on. What is left out for such a reason is in Warnings. Errors and warnings hold no secret.
func ParseDockerConfig(data []byte) (DockerConfig, error) {
	if len(data) > maxSource {
		return DockerConfig{}, fmt.Errorf("it has more than %d bytes", maxSource)
	}
	var file struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredsStore  string                     `json:"credsStore"`
		CredHelpers map[string]string          `json:"credHelpers"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return DockerConfig{}, fmt.Errorf("it is not a docker config JSON: %w", jsonFault(err))
	}
	c := DockerConfig{exact: map[string]Login{}}
	if file.CredsStore != "" {
		c.warn("credsStore %s is not used: hotplate runs no credential helpers", quote(file.CredsStore))
	}
	for _, host := range slices.Sorted(maps.Keys(file.CredHelpers)) {
		c.warn("the credential helper for %s is not used: hotplate runs none", quote(host))
	}
	if file.Auths == nil && file.CredsStore == "" && len(file.CredHelpers) == 0 {
		return DockerConfig{}, errors.New(`it has no "auths"; write {"auths": {"host": {"auth": "…"}}}`)
	}
	var faults []error
	keys := newKeys()
	for _, key := range slices.Sorted(maps.Keys(file.Auths)) {
		login, err := parseLogin(file.Auths[key])
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("the login for %s: %w", quote(key), err))
		case login == (Login{}):
			c.warn("the entry for %s holds neither user and password nor an identity token: not used", quote(key))
		default:
			keys.add(&c, key, login)
		}
	}
	if len(faults) > 0 {
		return DockerConfig{}, errors.Join(faults...)
	}
	keys.finish(&c)
	return c, nil
}

// jsonFault is the error without a value of the document, which may be a password.
func jsonFault(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("wrong at byte %d", syntax.Offset)
	}
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%q is of the wrong type, at byte %d", typ.Field, typ.Offset)
	}
	return errors.New("wrong value")
}

// parseLogin reads one entry of auths, with go-containerregistry's reading of the auth field.
func parseLogin(data []byte) (Login, error) {
	var a authn.AuthConfig
	if err := json.Unmarshal(data, &a); err != nil {
		return Login{}, errors.New("its fields are not as docker writes them; auth is the base64 of user:password")
	}
	switch {
	case a.IdentityToken != "":
		return Login{Password: Secret(a.IdentityToken)}, nil
	case a.Username != "" && a.Password != "":
		return Login{Username: a.Username, Password: Secret(a.Password)}, nil
	default:
		return Login{}, nil
	}
}

// keys sorts the entries of auths by how exactly they name a host.
type keys struct {
	ofHost map[string]string           // canonical host to the key that names it and no path
	ofPath map[string]map[string]Login // canonical host to the logins of keys that name a path too
}

func newKeys() *keys {
	return &keys{ofHost: map[string]string{}, ofPath: map[string]map[string]Login{}}
}

func (k *keys) add(c *DockerConfig, key string, login Login) {
	host, rest := splitKey(key)
	switch {
	case host == "":
		c.warn("the entry %s names no host: not used", quote(key))
	case rest != "":
		if k.ofPath[host] == nil {
			k.ofPath[host] = map[string]Login{}
		}
		k.ofPath[host][key] = login
	case strings.ContainsAny(host, "*?"):
		c.patterns = append(c.patterns, pattern{host, login})
	case k.ofHost[host] != "" && c.exact[host] != login:
		c.warn("the entries %s and %s are for the same host: the first is used", quote(k.ofHost[host]), quote(key))
	default:
		k.ofHost[host], c.exact[host] = key, login
	}
}

// finish decides about keys with a path. docker takes such a key for its whole host; where there are several, with
// different logins, it would depend on the order of a map.
func (k *keys) finish(c *DockerConfig) {
	for _, host := range slices.Sorted(maps.Keys(k.ofPath)) {
		logins := slices.Collect(maps.Values(k.ofPath[host]))
		same := !slices.ContainsFunc(logins, func(l Login) bool { return l != logins[0] })
		switch _, ok := c.exact[host]; {
		case ok:
			c.warn("the entries for paths on %s are not used: logins are looked up by host, and it has one", quote(host))
		case !same:
			c.warn("the entries for %s have different logins for different paths: none is used, as logins are looked up "+
				"by host", quote(host))
		default:
			c.exact[host] = logins[0]
		}
	}
	slices.SortStableFunc(c.patterns, func(a, b pattern) int { return len(b.host) - len(a.host) })
}

func (c *DockerConfig) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// Login is the login for a host, written as in a URL: host or host:port. Keys are matched as docker and Kubernetes do:
// with or without scheme, with /v1/ or /v2/ behind it, all names of Docker Hub for one, and *.example.com for one level
// of names. A port must be the same.
func (c DockerConfig) Login(host string) (Login, bool) {
	host = canonicalHost(host)
	if login, ok := c.exact[host]; ok {
		return login, true
	}
	for _, p := range c.patterns {
		if matchHost(p.host, host) {
			return p.login, true
		}
	}
	return Login{}, false
}

// Warnings says what in the document is not used, and why. They hold no secret.
func (c DockerConfig) Warnings() []string { return slices.Clone(c.warnings) }

// splitKey splits a key of auths into a canonical host and a path, empty for the paths of the API itself.
func splitKey(key string) (host, rest string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, rest, _ = strings.Cut(key, "/")
	rest = strings.TrimSuffix(rest, "/")
	if rest == "v1" || rest == "v2" {
		rest = ""
	}
	return canonicalHost(host), rest
}

// canonicalHost brings the names of Docker Hub together: docker login writes index.docker.io, images say docker.io, and
// requests go to registry-1.docker.io.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	default:
		return host
	}
}

// matchHost compares label by label, as Kubernetes does (pkg/credentialprovider/keyring.go, URLsMatch).
func matchHost(pattern, host string) bool {
	patternName, patternPort, _ := strings.Cut(pattern, ":")
	name, port, _ := strings.Cut(host, ":")
	want, got := strings.Split(patternName, "."), strings.Split(name, ".")
	if patternPort != port || len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
