package hostconfig

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// emitter writes the small part of TOML that hosts.toml needs.
type emitter struct{ b strings.Builder }

func (e *emitter) line(format string, args ...any) { fmt.Fprintf(&e.b, format+"\n", args...) }

// table begins [keys...] after an empty line.
func (e *emitter) table(keys ...string) {
	quoted := make([]string, len(keys))
	for i, k := range keys {
		quoted[i] = tomlKey(k)
	}
	e.line("\n[%s]", strings.Join(quoted, "."))
}

// pair is a key and its value, both in TOML.
type pair struct{ key, value string }

func (e *emitter) pairs(list []pair) {
	for _, p := range list {
		e.line("%s = %s", p.key, p.value)
	}
}

// headerPairs has the names in byte order, so that equal headers give equal bytes.
func headerPairs(h http.Header) []pair {
	var out []pair
	for _, name := range slices.Sorted(maps.Keys(h)) {
		value := tomlList(h[name])
		if len(h[name]) == 1 {
			value = tomlString(h[name][0])
		}
		out = append(out, pair{tomlKey(name), value})
	}
	return out
}

// tomlKey writes a key bare where TOML allows it.
func tomlKey(key string) string {
	bare := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
	if bare {
		return key
	}
	return tomlString(key)
}

func tomlList(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = tomlString(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// tomlString writes a basic string. Control characters are escaped as TOML 1.0 asks; s must be valid UTF-8.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
