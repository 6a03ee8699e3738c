package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/hotplate-dev/hotplate/certs"
)

// maxSource bounds a file that a config names, in bytes.
const maxSource = 1 << 20

// LoadCerts reads the CA bundles and key pairs of a config, by their names. The error joins everything that is wrong;
// what could be read is returned beside it. Outside of a cluster objects is nil.
func LoadCerts(cfg *Config, objects Objects) (map[string]certs.Bundle, map[string]certs.KeyPair, error) {
	objects = orNone(objects)
	bundles, pairs := map[string]certs.Bundle{}, map[string]certs.KeyPair{}
	var faults []error
	for _, source := range cfg.Certs.Bundles {
		bundle, err := loadBundle(source, objects)
		if err != nil {
			faults = append(faults, fmt.Errorf("certs.bundles: bundle %q: %w", source.Name, err))
			continue
		}
		bundles[source.Name] = bundle
	}
	for _, source := range cfg.Certs.KeyPairs {
		pair, err := loadKeyPair(source, objects)
		if err != nil {
			faults = append(faults, fmt.Errorf("certs.keyPairs: key pair %q: %w", source.Name, err))
			continue
		}
		pairs[source.Name] = pair
	}
	return bundles, pairs, errors.Join(faults...)
}

func orNone(objects Objects) Objects {
	if objects == nil {
		return noObjects{}
	}
	return objects
}

func loadBundle(source BundleSource, objects Objects) (certs.Bundle, error) {
	var (
		all    []certs.Bundle
		faults []error
	)
	take := func(b certs.Bundle, err error) { all, faults = append(all, b), append(faults, err) }
	if source.PEM != "" {
		take(certs.ParseBundle([]byte(source.PEM)))
	}
	if source.File != "" {
		take(certs.ReadBundleFile(source.File))
	}
	if source.Dir != "" {
		take(certs.ReadBundleDir(source.Dir))
	}
	if source.ConfigMap != nil {
		take(source.ConfigMap.bundle("ConfigMap", objects.ConfigMap))
	}
	if source.Secret != nil {
		take(source.Secret.bundle("Secret", objects.Secret))
	}
	if err := errors.Join(faults...); err != nil {
		return certs.Bundle{}, err
	}
	return certs.Merge(all...), nil
}

func loadKeyPair(source KeyPairSource, objects Objects) (certs.KeyPair, error) {
	if source.Secret != "" {
		return loadSecretPair(source.Secret, objects)
	}
	cert, certErr := inlineOrFile(source.Cert, source.CertFile)
	key, keyErr := inlineOrFile(string(source.Key), source.KeyFile)
	if err := errors.Join(certErr, keyErr); err != nil {
		return certs.KeyPair{}, err
	}
	return certs.ParseKeyPair(cert, key)
}

func inlineOrFile(inline, file string) ([]byte, error) {
	if inline != "" {
		return []byte(inline), nil
	}
	return readFile(file)
}

// LoadCredentials reads the logins of a config, by their names, and checks that each login that is to be exposed to
// the node can be. The error joins everything that is wrong; what could be read is returned beside it. The warnings say
// what will not work as it looks: a mirror whose login has nothing for its host, an entry that is not used.
// Outside of a cluster objects is nil.
func LoadCredentials(cfg *Config, objects Objects) (logins map[string]Logins, warnings []string, err error) {
	logins = map[string]Logins{}
	var faults []error
	for _, source := range cfg.Credentials {
		l, err := loadLogins(source, orNone(objects))
		if err != nil {
			faults = append(faults, fmt.Errorf("credentials: login %q: %w", source.Name, err))
			continue
		}
		logins[source.Name] = l
		for _, w := range l.Warnings() {
			warnings = append(warnings, fmt.Sprintf("credentials: login %q: %s: %s", source.Name,
				source.where(), w))
		}
	}
	for i, r := range cfg.Registries {
		at := index("registries", i)
		if l, ok := logins[r.Credentials]; ok && r.Host != DefaultHost {
			if _, ok := l.Login(r.Host); !ok {
				warnings = append(warnings, missingLogin(at, r.Credentials, r.Host))
			}
		}
		for j, m := range r.Mirrors {
			l, ok := logins[m.Credentials]
			if !ok {
				continue
			}
			warning, err := checkLogin(index(join(at, "mirrors"), j), m, l)
			if warning != "" {
				warnings = append(warnings, warning)
			}
			faults = append(faults, err)
		}
	}
	return logins, warnings, errors.Join(faults...)
}

// checkLogin checks that a mirror's login has something for the mirror's host, and a header where that is to be
// exposed.
func checkLogin(at string, m Mirror, l Logins) (warning string, err error) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return "", fmt.Errorf("%s: url: %w", at, err)
	}
	login, ok := l.Login(u.Host)
	switch {
	case !ok && m.ExposeToNode:
		return "", fmt.Errorf("%s: exposeToNode: login %q has no entry for %s; add one", at, m.Credentials, u.Host)
	case !ok:
		return missingLogin(at, m.Credentials, u.Host), nil
	case m.ExposeToNode:
		if _, err := login.Authorization(); err != nil {
			return "", fmt.Errorf("%s: exposeToNode: login %q: %w", at, m.Credentials, err)
		}
	}
	return "", nil
}

func missingLogin(at, name, host string) string {
	return fmt.Sprintf("%s: login %q has no entry for %s: requests there will be anonymous", at, name, host)
}

func loadLogins(source Credential, objects Objects) (Logins, error) {
	if source.Secret != "" {
		return loadSecretLogins(source.Secret, objects)
	}
	if source.DockerConfigFile != "" {
		data, err := readFile(source.DockerConfigFile)
		if err != nil {
			return Logins{}, err
		}
		docker, err := ParseDockerConfig(data)
		if err != nil {
			return Logins{}, fmt.Errorf("%s: %w", source.DockerConfigFile, err)
		}
		return Logins{docker: docker}, nil
	}
	login, err := loadLogin(source.UsernameFile, source.PasswordFile)
	if err != nil {
		return Logins{}, err
	}
	return Logins{single: &login}, nil
}

func loadLogin(usernameFile, passwordFile string) (Login, error) {
	user, userErr := readFile(usernameFile)
	password, passwordErr := readFile(passwordFile)
	if err := errors.Join(userErr, passwordErr); err != nil {
		return Login{}, err
	}
	return newLogin(user, password, usernameFile, passwordFile)
}

// newLogin checks a login that was read from where userAt and passwordAt say.
func newLogin(user, password []byte, userAt, passwordAt string) (Login, error) {
	login := Login{Username: string(bytes.TrimSpace(user)), Password: Secret(trimLine(password))}
	var faults []error
	switch {
	case login.Username == "":
		faults = append(faults, fmt.Errorf("%s is empty; write the user's name", userAt))
	case strings.ContainsFunc(login.Username, func(r rune) bool { return r == ':' || unicode.IsControl(r) }):
		// RFC 7617, section 2.
		faults = append(faults, fmt.Errorf("%s holds a colon or a line break, which no user's name can; write the name "+
			"alone", userAt))
	}
	if login.Password == "" {
		faults = append(faults, fmt.Errorf("%s is empty; write the password", passwordAt))
	}
	return login, errors.Join(faults...)
}

// readFile reads a regular file, or what a symlink to one leads to, as kubelet mounts Secrets. It opens without
// blocking, because a FIFO would make it wait for a writer.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxSource:
		return nil, fmt.Errorf("read %s: more than %d bytes", path, maxSource)
	}
	return data, nil
}
