package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/certs"
)

// Validate checks what the fields mean together. It expects a Config that Default has seen. An error is of type Faults;
// they have a path and no line.
func (c *Config) Validate() error { return c.validate(&walker{}).report("") }

// validate leaves out what follows only from a fault that the walk has found already.
func (c *Config) validate(w *walker) Faults {
	v := &validator{
		walked:      w,
		bundles:     newNames("bundle", "certs.bundles"),
		keyPairs:    newNames("key pair", "certs.keyPairs"),
		credentials: newNames("login", "credentials"),
		logins:      map[string]Credential{},
	}
	if c.APIVersion != APIVersion {
		v.fault("apiVersion", "is %s; write %s", quote(c.APIVersion), APIVersion)
	}
	v.certs(c.Certs)
	for i, login := range c.Credentials {
		v.credential(index("credentials", i), login)
	}
	hosts := newNames("registry", "registries")
	for i, r := range c.Registries {
		at := index("registries", i)
		v.add(hosts, join(at, "host"), r.Host)
		v.registry(at, r)
	}
	v.images(c.Images)
	v.prefetch(c.Prefetch)
	v.restart(c.Restart)
	v.cluster(c.Cluster)
	v.objects(c)
	return v.faults
}

// validator collects the faults of one Config.
type validator struct {
	walked *walker
	faults Faults

	bundles, keyPairs, credentials *names
	logins                         map[string]Credential // by name
}

func (v *validator) fault(path, format string, args ...any) {
	if !v.walked.spoiled(path) {
		v.faults = append(v.faults, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
	}
}

// names are the names that one list gives to its entries.
type names struct {
	what, list string
	first      map[string]string // name to the path that has it first
}

func newNames(what, list string) *names {
	return &names{what: what, list: list, first: map[string]string{}}
}

// add takes a name; one that is taken already is a fault.
func (v *validator) add(n *names, path, name string) {
	if name == "" {
		return // missing, and reported as that
	}
	if first, taken := n.first[name]; taken {
		v.fault(path, "is %s, as %s is already; each %s needs one of its own", quote(name), first, n.what)
		return
	}
	n.first[name] = path
}

// refer checks a reference by name.
func (v *validator) refer(n *names, path, name string) {
	if _, ok := n.first[name]; ok || v.walked.within[n.list] {
		return // where the list has faults, the name may be in what could not be read
	}
	known := make([]string, 0, len(n.first))
	for name := range n.first {
		known = append(known, name)
	}
	slices.Sort(known)
	if len(known) == 0 {
		v.fault(path, "is %s, but there is no %s in %s; add it there", quote(name), n.what, n.list)
		return
	}
	hint := "known are " + list(known)
	if name := nearest(name, known); name != "" {
		hint = "did you mean " + quote(name) + "?"
	}
	v.fault(path, "is %s, and no %s in %s is called that; %s", quote(name), n.what, n.list, hint)
}

// list shows names, a few of them where there are many.
func list(names []string) string {
	const most = 8
	shown := make([]string, 0, most)
	for _, name := range names[:min(len(names), most)] {
		shown = append(shown, quote(name))
	}
	s := strings.Join(shown, ", ")
	if more := len(names) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

func (v *validator) certs(c Certs) {
	for i, b := range c.Bundles {
		at := index("certs.bundles", i)
		v.add(v.bundles, join(at, "name"), b.Name)
		if b.PEM == "" && b.File == "" && b.Dir == "" && b.ConfigMap == nil && b.Secret == nil &&
			!v.anySpoiled(at, "pem", "file", "dir", "configMap", "secret") {
			v.fault(at, "holds no certificates; write pem, file, dir, configMap or secret")
		}
		if b.PEM != "" {
			if _, err := certs.ParseBundle([]byte(b.PEM)); err != nil {
				v.fault(join(at, "pem"), "is not a CA bundle: %s", oneLine(err))
			}
		}
		v.absolute(join(at, "file"), b.File)
		v.absolute(join(at, "dir"), b.Dir)
		v.objectRef(join(at, "configMap"), b.ConfigMap)
		v.objectRef(join(at, "secret"), b.Secret)
	}
	for i, k := range c.KeyPairs {
		at := index("certs.keyPairs", i)
		v.add(v.keyPairs, join(at, "name"), k.Name)
		v.keyPair(at, k)
		if k.Cert != "" && k.Key != "" {
			if _, err := certs.ParseKeyPair([]byte(k.Cert), []byte(string(k.Key))); err != nil {
				v.fault(at, "is not a key pair: %s", oneLine(err))
			}
		}
		v.absolute(join(at, "certFile"), k.CertFile)
		v.absolute(join(at, "keyFile"), k.KeyFile)
	}
}

// keyPair checks that a certificate and a key come from one place each.
func (v *validator) keyPair(at string, k KeyPairSource) {
	switch inline := k.Cert != "" || k.CertFile != "" || k.Key != "" || k.KeyFile != ""; {
	case v.anySpoiled(at, "secret"):
	case k.Secret == "":
		v.either(at, "cert", "certFile", k.Cert != "", k.CertFile != "")
		v.either(at, "key", "keyFile", k.Key != "", k.KeyFile != "")
	case inline:
		v.fault(at, "has secret beside a certificate or key; write the one or the others")
	}
	v.objectName(join(at, "secret"), k.Secret)
}

// either checks that exactly one of two fields is set.
func (v *validator) either(at, inline, file string, hasInline, hasFile bool) {
	switch {
	case v.anySpoiled(at, inline, file):
	case !hasInline && !hasFile:
		v.fault(at, "has neither %s nor %s; write one of them", inline, file)
	case hasInline && hasFile:
		v.fault(at, "has both %s and %s; write one of them", inline, file)
	}
}

func (v *validator) credential(at string, c Credential) {
	v.add(v.credentials, join(at, "name"), c.Name)
	v.logins[c.Name] = c
	docker, user, password := c.DockerConfigFile != "", c.UsernameFile != "", c.PasswordFile != ""
	switch {
	case v.anySpoiled(at, "dockerConfigFile", "usernameFile", "passwordFile", "secret"):
	case c.Secret != "" && (docker || user || password):
		v.fault(at, "has secret beside files; write the one or the others")
	case c.Secret != "":
	case docker && (user || password):
		v.fault(at, "has dockerConfigFile beside usernameFile or passwordFile; write the one or the others")
	case !docker && (!user || !password):
		v.fault(at, "holds no whole login; write dockerConfigFile, or usernameFile together with passwordFile, or secret")
	}
	v.absolute(join(at, "dockerConfigFile"), c.DockerConfigFile)
	v.absolute(join(at, "usernameFile"), c.UsernameFile)
	v.absolute(join(at, "passwordFile"), c.PasswordFile)
	v.objectName(join(at, "secret"), c.Secret)
}

// anySpoiled reports whether one of an object's fields has a fault already, so that it may be set although it is empty.
func (v *validator) anySpoiled(at string, fields ...string) bool {
	return slices.ContainsFunc(fields, func(f string) bool { return v.walked.spoiled(join(at, f)) })
}

// absolute refuses relative paths, because the agent and a shell have different working directories.
func (v *validator) absolute(path, file string) {
	switch {
	case file == "":
	case strings.ContainsRune(file, 0):
		v.fault(path, "holds a NUL character; write a path")
	case !filepath.IsAbs(file):
		v.fault(path, "is %s, a relative path; write it from the root: /…", quote(file))
	}
}

// oneLine is the text of an error that may join several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ", and ") }

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
