package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/hotplate-dev/hotplate/certs"
)

// Objects are the ConfigMaps and Secrets of the agent's own namespace.
type Objects interface {
	// ConfigMap and Secret return what the object of this name holds, by key. That there is none is an error that says so.
	// What is returned must not be changed.
	ConfigMap(name string) (map[string][]byte, error)
	Secret(name string) (map[string][]byte, error)
}

// ErrNoDocument is the class of a Snapshot's error where nobody has written a document yet, or it was removed.
var ErrNoDocument = errors.New("there is no document")

// ErrOnlyInCluster is why an object cannot be read where there is no cluster.
var ErrOnlyInCluster = errors.New("there is one only in a cluster; use file here")

// noObjects are those of a document that does not come from a cluster.
type noObjects struct{}

func (noObjects) ConfigMap(name string) (map[string][]byte, error) {
	return nil, fmt.Errorf("%s %s: %w", "ConfigMap", quote(name), ErrOnlyInCluster)
}

func (noObjects) Secret(name string) (map[string][]byte, error) {
	return nil, fmt.Errorf("%s %s: %w", "Secret", quote(name), ErrOnlyInCluster)
}

// The keys of Secrets with a type (k8s.io/api/core/v1, v0.37).
const (
	tlsCertKey      = "tls.crt"
	tlsKeyKey       = "tls.key"
	dockerConfigKey = ".dockerconfigjson"
	usernameKey     = "username"
	passwordKey     = "password"
)

// ObjectNames are the objects that the config names, each once, in order.
func (c *Config) ObjectNames() (configMaps, secrets []string) {
	for _, b := range c.Certs.Bundles {
		if b.ConfigMap != nil {
			configMaps = append(configMaps, b.ConfigMap.Name)
		}
		if b.Secret != nil {
			secrets = append(secrets, b.Secret.Name)
		}
	}
	for _, k := range c.Certs.KeyPairs {
		secrets = append(secrets, k.Secret)
	}
	for _, l := range c.Credentials {
		secrets = append(secrets, l.Secret)
	}
	return distinct(configMaps), distinct(secrets)
}

func distinct(names []string) []string {
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// bundle reads the certificates that ref names in what get returns.
func (ref *ObjectRef) bundle(kind string, get func(string) (map[string][]byte, error)) (certs.Bundle, error) {
	data, err := get(ref.Name)
	if err != nil {
		return certs.Bundle{}, err
	}
	keys := []string{ref.Key}
	if ref.Key == "" {
		keys = slices.DeleteFunc(slices.Sorted(maps.Keys(data)), func(key string) bool { return !isPEMName(key) })
		if len(keys) == 0 {
			return certs.Bundle{}, fmt.Errorf("%s %s: it has no key that ends in .pem, .crt or .cer; %s", kind, quote(ref.Name), has(data))
		}
	}
	var all []certs.Bundle
	var faults []error
	for _, key := range keys {
		text, ok := data[key]
		if !ok {
			faults = append(faults, fmt.Errorf("%s %s: it has no key %s; %s", kind, quote(ref.Name), quote(key), has(data)))
			continue
		}
		b, err := certs.ParseBundle(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %s: key %s: %w", kind, quote(ref.Name), quote(key), err))
		}
		all = append(all, b)
	}
	return certs.Merge(all...), errors.Join(faults...)
}

func isPEMName(name string) bool {
	switch path.Ext(name) {
	case ".pem", ".crt", ".cer":
		return true
	}
	return false
}

// has says which keys there are, and not what they hold.
func has(data map[string][]byte) string {
	if len(data) == 0 {
		return "it is empty"
	}
	return "it has " + list(slices.Sorted(maps.Keys(data)))
}

// loadSecretPair reads a Secret of type kubernetes.io/tls.
func loadSecretPair(name string, objects Objects) (certs.KeyPair, error) {
	data, err := objects.Secret(name)
	if err != nil {
		return certs.KeyPair{}, err
	}
	at := "Secret " + quote(name) + ": "
	if data[tlsCertKey] == nil || data[tlsKeyKey] == nil {
		return certs.KeyPair{}, fmt.Errorf("%sa key pair needs the keys tls.crt and tls.key, as type kubernetes.io/tls has; %s", at,
			has(data))
	}
	pair, err := certs.ParseKeyPair(data[tlsCertKey], data[tlsKeyKey])
	if err != nil {
		return certs.KeyPair{}, fmt.Errorf("%s%w", at, err)
	}
	return pair, nil
}

// loadSecretLogins reads a Secret of type kubernetes.io/dockerconfigjson or kubernetes.io/basic-auth.
func loadSecretLogins(name string, objects Objects) (Logins, error) {
	data, err := objects.Secret(name)
	if err != nil {
		return Logins{}, err
	}
	at := "Secret " + quote(name) + ": "
	docker, isDocker := data[dockerConfigKey]
	user, isUser := data[usernameKey]
	password, isPassword := data[passwordKey]
	switch {
	case isDocker && (isUser || isPassword):
		return Logins{}, fmt.Errorf("%sit has .dockerconfigjson beside username or password; make two Secrets of it", at)
	case isDocker:
		c, err := ParseDockerConfig(docker)
		if err != nil {
			return Logins{}, fmt.Errorf("%skey .dockerconfigjson: %w", at, err)
		}
		return Logins{docker: c}, nil
	case isUser && isPassword:
		login, err := newLogin(user, password, at+"key username", at+"key password")
		if err != nil {
			return Logins{}, err
		}
		return Logins{single: &login}, nil
	}
	return Logins{}, fmt.Errorf("%sa login needs the key .dockerconfigjson, as type kubernetes.io/dockerconfigjson has, or username and "+
		"password, as kubernetes.io/basic-auth has; %s", at, has(data))
}

// where says where a login comes from, for warnings.
func (c Credential) where() string {
	if c.Secret != "" {
		return "Secret " + quote(c.Secret)
	}
	return c.DockerConfigFile
}

var _ Objects = noObjects{}

// trimLine cuts off a line break at the end.
func trimLine(data []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
}
