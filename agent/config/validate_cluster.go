package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	minResolveInterval = Duration(30 * time.Second)
	// maxObjects bounds how many ConfigMaps and Secrets a document may name: the agent holds all of them, up to 1 MiB each.
	maxObjects = 64
)

// The rules of Kubernetes for names, keys and labels (k8s.io/apimachinery/pkg/util/validation, v0.37: IsDNS1123Subdomain,
// IsConfigMapKey, IsQualifiedName, IsValidLabelValue).
var (
	subdomain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	objectKey  = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	labelValue = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

const (
	maxSubdomain = 253
	maxLabel     = 63
)

func isSubdomain(s string) bool { return len(s) <= maxSubdomain && subdomain.MatchString(s) }

func isLabelValue(s string) bool { return len(s) <= maxLabel && labelValue.MatchString(s) }

func (v *validator) cluster(c Cluster) {
	if c.ResolveInterval < minResolveInterval {
		v.fault("cluster.resolveInterval", "is %s; write at least 30s", c.ResolveInterval)
	}
}

// objects bounds how much there is to watch.
func (v *validator) objects(c *Config) {
	configMaps, secrets := c.ObjectNames()
	if n := len(configMaps) + len(secrets); n > maxObjects {
		v.fault("", "the document names %d ConfigMaps and Secrets; name at most %d, and put more certificates into each", n, maxObjects)
	}
}

func (v *validator) objectRef(at string, ref *ObjectRef) {
	if ref == nil {
		return
	}
	v.objectName(join(at, "name"), ref.Name)
	if key := ref.Key; key != "" && (len(key) > maxSubdomain || !objectKey.MatchString(key) || key == "." || strings.HasPrefix(key, "..")) {
		v.fault(join(at, "key"), "is %s, not a key of a ConfigMap or Secret; write letters, digits, dashes, dots and underscores",
			quote(key))
	}
}

func (v *validator) objectName(path, name string) {
	if name != "" && !isSubdomain(name) {
		v.fault(path, "is %s, not the name of an object; write lower-case letters, digits, dashes and dots, and no namespace: it is "+
			"the agent's own", quote(name))
	}
}

// labels checks a selector.
func (v *validator) labels(at string, labels map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		prefix, name, prefixed := strings.Cut(key, "/")
		if !prefixed {
			name = key
		}
		if prefixed && !isSubdomain(prefix) || !isLabelValue(name) {
			v.fault(join(at, key), "is not the key of a label; write a name such as gpu or example.com/gpu")
		}
		if value := labels[key]; value != "" && !isLabelValue(value) {
			v.fault(join(at, key), "is %s, not the value of a label; write at most 63 letters, digits, dashes, dots and underscores",
				quote(value))
		}
	}
}
