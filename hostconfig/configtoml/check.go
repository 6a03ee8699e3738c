package configtoml

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// check proves that the edited file differs from the old one in config_path alone, and in what conv removes, and that
// so does what containerd makes of all files together.
func (c *Config) check(t target, edited *File, hostsDir string, conv conversion) error {
	old := &c.Files[t.file]
	removed := conv.keys
	registry := []string{"plugins", t.plugin, "registry"}
	if keys := differing(stripped(old.doc, registry, removed), stripped(edited.doc, registry, removed)); len(keys) > 0 {
		return fmt.Errorf("the edit would change %s", strings.Join(keys, ", "))
	}
	files := slices.Clone(c.Files)
	files[t.file] = *edited
	after := evaluate(files, c.rules)
	if len(after.faults) > 0 {
		return errors.New(after.faults[0].message)
	}
	if s := after.setting(files, c.rules); !s.isExactly(hostsDir) {
		return fmt.Errorf("config_path would still be %q", s.Value)
	}
	keys := differing(effective(c.result, removed), effective(after, removed))
	if len(keys) > 0 {
		return fmt.Errorf("the edit would change %s in effect", strings.Join(keys, ", "))
	}
	return nil
}

// effective returns the sections in effect, without what an edit may change.
func effective(o outcome, removed [][]string) table {
	plugins := plain(o.plugins)
	out := table{"plugins": plugins}
	for _, name := range registryNames() {
		out = stripped(out, []string{"plugins", name, "registry"}, removed)
	}
	return out
}

// stripped returns the document without config_path and the removed keys of one registry table, and without the empty
// tables that are then left on the way there.
func stripped(doc table, registry []string, removed [][]string) table {
	out := without(doc, append(slices.Clone(registry), "config_path"))
	for _, key := range removed {
		out = without(out, append(slices.Clone(registry), key...))
	}
	return out
}

// without returns a copy of t that has nothing at key, where "*" stands for every name, and no empty table on the way.
func without(t table, key []string) table {
	out := maps.Clone(t)
	if out == nil {
		return table{}
	}
	names := []string{key[0]}
	if key[0] == "*" {
		names = slices.Collect(maps.Keys(t))
	}
	for _, name := range names {
		sub, isTable := out[name].(table)
		switch {
		case len(key) == 1:
			delete(out, name)
		case isTable:
			if rest := without(sub, key[1:]); len(rest) > 0 {
				out[name] = rest
			} else {
				delete(out, name)
			}
		}
	}
	return out
}

// differing returns the keys in which two tables differ, at most ten, without their values.
func differing(a, b table) []string {
	const limit = 10
	var out []string
	collect(a, b, nil, &out)
	slices.Sort(out)
	if len(out) > limit {
		out = append(out[:limit], fmt.Sprintf("%d more", len(out)-limit))
	}
	return out
}

func collect(a, b table, at []string, out *[]string) {
	names := slices.Collect(maps.Keys(a))
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	for _, name := range names {
		key := append(slices.Clone(at), name)
		subA, tableA := a[name].(table)
		subB, tableB := b[name].(table)
		switch {
		case tableA && tableB:
			collect(subA, subB, key, out)
		case !same(a[name], b[name]):
			*out = append(*out, dottedName(key))
		}
	}
}

// missingKeys returns the keys of a that b does not have, at most ten.
func missingKeys(a, b table) []string {
	only := mapLeaves(a, func(any) any { return true })
	prune(only, b)
	return differing(only, table{})
}

// prune takes out of t what is in other.
func prune(t, other table) {
	for name, v := range t {
		sub, isTable := v.(table)
		o, both := other[name].(table)
		switch {
		case isTable && both:
			prune(sub, o)
			if len(sub) == 0 {
				delete(t, name)
			}
		case other[name] != nil:
			delete(t, name)
		}
	}
}

func dottedName(key []string) string {
	parts := make([]string, len(key))
	for i, part := range key {
		parts[i] = part
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r > '~' || r == '.' || r == '"' }) {
			parts[i] = fmt.Sprintf("%q", part)
		}
	}
	return strings.Join(parts, ".")
}

// same compares two values of TOML. nan is the same as nan.
func same(a, b any) bool {
	switch x := a.(type) {
	case float64:
		y, ok := b.(float64)
		return ok && (x == y || math.IsNaN(x) && math.IsNaN(y))
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, same)
	case table:
		y, ok := b.(table)
		return ok && len(differing(x, y)) == 0
	default:
		return reflect.DeepEqual(a, b)
	}
}

// OnlyRegistryDiffers compares two outputs of `containerd config dump`. It returns nil if nothing differs but
// config_path, and what Options.Convert takes away: mirrors and configs.*.tls may go, and may not come or change.
// Otherwise the error names the keys, without their values. 1.x prints the files that it read as `imports`, in any
// order, so that one of them may have another name: the file that was dumped.
func OnlyRegistryDiffers(before, after []byte) error {
	var docs [2]table
	for i, data := range [][]byte{before, after} {
		if len(data) > maxFile {
			return fmt.Errorf("compare configurations: dump %d: %w", i+1, ErrTooLarge)
		}
		if err := toml.Unmarshal(data, &docs[i]); err != nil {
			return fmt.Errorf("compare configurations: dump %d is not TOML", i+1)
		}
	}
	if sameImports(docs[0]["imports"], docs[1]["imports"]) {
		delete(docs[0], "imports")
		delete(docs[1], "imports")
	}
	for _, name := range registryNames() {
		registry := []string{"plugins", name, "registry"}
		var removed [][]string
		for _, key := range [][]string{{"mirrors"}, {"configs", "*", "tls"}} {
			if full := append(slices.Clone(registry), key...); nothingAt(docs[1], full) {
				removed = append(removed, key)
			}
		}
		for i := range docs {
			docs[i] = stripped(docs[i], registry, removed)
		}
	}
	if keys := differing(docs[0], docs[1]); len(keys) > 0 {
		return fmt.Errorf("more than the registry's config_path would change: %s", strings.Join(keys, ", "))
	}
	return nil
}

// nothingAt reports whether there is no value at key.
func nothingAt(t table, key []string) bool {
	for i, part := range key {
		if part == "*" {
			for name := range t {
				sub, ok := t[name].(table)
				if ok && !nothingAt(sub, key[i+1:]) {
					return false
				}
			}
			return true
		}
		if i == len(key)-1 {
			sub, isTable := t[part].(table)
			return t[part] == nil || isTable && len(sub) == 0
		}
		sub, ok := t[part].(table)
		if !ok {
			return true
		}
		t = sub
	}
	return true
}

func sameImports(a, b any) bool {
	listA, okA := a.([]any)
	listB, okB := b.([]any)
	if !okA || !okB {
		return false
	}
	missing := func(from, in []any) (n int) {
		for _, item := range from {
			if !slices.ContainsFunc(in, func(x any) bool { return same(x, item) }) {
				n++
			}
		}
		return n
	}
	return len(listA) == len(listB) && missing(listA, listB) <= 1 && missing(listB, listA) <= 1
}
