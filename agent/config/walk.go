package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// walker reads a tree of YAML nodes into Go values and collects every fault on its way. It goes no deeper than the
// types do, so that a deeply nested document cannot exhaust the stack.
type walker struct {
	faults Faults
	lines  map[string]int  // where each field that was read stands
	broken map[string]bool // the fields that have faults
	within map[string]bool // those, and everything that they are part of
}

func newWalker(root *yaml.Node) *walker {
	return &walker{
		lines:  map[string]int{"": max(root.Line, 1)},
		broken: map[string]bool{},
		within: map[string]bool{},
	}
}

// fault reports a field whose value cannot be used.
func (w *walker) fault(path string, line int, format string, args ...any) {
	w.remark(path, line, format, args...)
	w.spoil(path)
}

// remark reports a field whose value is usable all the same.
func (w *walker) remark(path string, line int, format string, args ...any) {
	w.faults = append(w.faults, Fault{Line: line, Path: path, Message: fmt.Sprintf(format, args...)})
}

// spoil marks a field as one that says nothing about what its author wanted, so that validation draws no conclusion
// from its value.
func (w *walker) spoil(path string) {
	w.broken[path] = true
	for p := path; !w.within[p]; p = parent(p) {
		w.within[p] = true
	}
}

// spoiled reports whether a field, or something that it is part of, has a fault already.
func (w *walker) spoiled(path string) bool {
	for ; path != ""; path = parent(path) {
		if w.broken[path] {
			return true
		}
	}
	return w.broken[""]
}

// line is where a field stands, or the nearest thing around it that is in the document.
func (w *walker) line(path string) int {
	for {
		if line, ok := w.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
}

// value reads a node into what target points to.
func (w *walker) value(path string, n *yaml.Node, target any) {
	w.read(path, n, reflect.ValueOf(target).Elem())
}

func (w *walker) read(path string, n *yaml.Node, v reflect.Value) {
	if !w.plain(path, n) || isNull(n) {
		return // an empty value is one left out, as in Kubernetes
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		w.text(path, n, text)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.fields(path, n, v)
	case reflect.Map:
		w.entries(path, n, v)
	case reflect.Slice:
		w.list(path, n, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		w.read(path, n, v.Elem())
	default:
		w.scalar(path, n, v)
	}
}

// plain refuses what makes a value mean something else than it says.
func (w *walker) plain(path string, n *yaml.Node) bool {
	if n.Anchor != "" {
		w.remark(path, n.Line, "has an anchor (&%s), and those are not read; remove it, and write the value out where "+
			"it is used", shorten(n.Anchor))
	}
	switch {
	case n.Kind == yaml.AliasNode:
		w.fault(path, n.Line, "is an alias (*%s), and those are not read; write the value out", shorten(n.Value))
	case n.Style&yaml.TaggedStyle != 0:
		w.fault(path, n.Line, "has a tag (%s), and those are not read; remove it", shorten(n.Tag))
	default:
		return true
	}
	return false
}

func (w *walker) text(path string, n *yaml.Node, v encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!bool" {
		w.fault(path, n.Line, "is %s; write text", describe(n))
		return
	}
	if err := v.UnmarshalText([]byte(n.Value)); err != nil {
		w.fault(path, n.Line, "%s", err)
	}
}

func (w *walker) scalar(path string, n *yaml.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		switch {
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
			v.SetString(n.Value)
		case n.Kind == yaml.ScalarNode:
			w.fault(path, n.Line, "is %s; write text, in quotes where YAML would read something else", describe(n))
		default:
			w.fault(path, n.Line, "is %s; write text", describe(n))
		}
	case reflect.Bool:
		if n.ShortTag() != "!!bool" {
			w.fault(path, n.Line, "is %s; write true or false, without quotes", describe(n))
			return
		}
		w.decode(path, n, v)
	default:
		if n.ShortTag() != "!!int" {
			w.fault(path, n.Line, "is %s; write a whole number, without quotes", describe(n))
			return
		}
		w.decode(path, n, v)
	}
}

// decode reads a scalar whose kind is right already.
func (w *walker) decode(path string, n *yaml.Node, v reflect.Value) {
	if err := n.Decode(v.Addr().Interface()); err != nil {
		w.fault(path, n.Line, "%s is out of range; write a smaller number", quote(n.Value))
	}
}

func (w *walker) list(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		w.fault(path, n.Line, "is %s; write a list: one line for each entry, beginning with a dash", describe(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, entry := range n.Content {
		at := index(path, i)
		w.lines[at] = entry.Line
		if isNull(entry) {
			w.fault(at, entry.Line, "is empty; remove the entry or write it out")
			continue
		}
		w.read(at, entry, v.Index(i))
	}
}

// entries reads a map whose keys are the user's own.
func (w *walker) entries(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		w.fault(path, n.Line, "is %s; write a map: one line for each entry, name: value", describe(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	w.pairs(path, n, func(key, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		w.read(join(path, key.Value), value, element)
		v.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), element)
	})
}

// fields reads a map whose keys are the fields of a struct.
func (w *walker) fields(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		w.fault(path, n.Line, "is %s; write a map: one line for each field, name: value", describe(n))
		return
	}
	known := fieldsOf(v.Type())
	seen := map[string]bool{}
	w.pairs(path, n, func(key, value *yaml.Node) {
		i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value })
		if i < 0 {
			w.unknown(path, key, known, seen)
			return
		}
		seen[key.Value] = !isNull(value)
		w.read(join(path, key.Value), value, v.FieldByIndex(known[i].index))
	})
	for _, f := range known {
		at := join(path, f.name)
		if seen[f.name] && !w.broken[at] {
			w.bounds(at, v.FieldByIndex(f.index), f)
		}
		switch {
		case !f.required:
		case !seen[f.name]:
			w.fault(at, w.line(at), "is missing; it is required")
		case v.FieldByIndex(f.index).IsZero() && !w.broken[at]:
			w.fault(at, w.line(at), "is empty; it is required")
		}
	}
}

// bounds checks a number here and not in validation, where zero would mean that it was left out.
func (w *walker) bounds(path string, v reflect.Value, f field) {
	if f.most > 0 && (v.Int() < f.least || v.Int() > f.most) {
		w.fault(path, w.line(path), "is %d; write a number from %d to %d", v.Int(), f.least, f.most)
	}
}

// unknown reports a field that the type does not have. What it looks like counts as seen, so that one slip of the
// finger is not reported as two faults.
func (w *walker) unknown(path string, key *yaml.Node, known []field, seen map[string]bool) {
	at := join(path, key.Value)
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.name
	}
	if name := nearest(key.Value, names); name != "" {
		w.fault(at, key.Line, "unknown field; did you mean %s?", name)
		if _, ok := seen[name]; !ok {
			seen[name] = true
			w.spoil(join(path, name))
		}
		return
	}
	w.fault(at, key.Line, "unknown field; known here are %s", strings.Join(names, ", "))
}

// pairs calls read for each key and value of a map, once for each key, and notes the line of each.
func (w *walker) pairs(path string, n *yaml.Node, read func(key, value *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		switch line, twice := first[key.Value]; {
		case key.ShortTag() == "!!merge":
			w.fault(path, key.Line, "has a merge key (<<), and those are not read; write the fields out")
			continue
		case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			w.fault(path, key.Line, "has a key that is not plain text; write a name")
			continue
		case twice:
			w.fault(at, key.Line, "is written twice, first in line %d; remove one", line)
			continue
		}
		first[key.Value] = key.Line
		w.lines[at] = key.Line
		read(key, value)
	}
}

// field is one field of a struct, as documents name it.
type field struct {
	name     string
	index    []int
	required bool // it is required that has no omitempty

	least, most int64 // the bounds of a number, from the tag that the JSON schema is made of too; most is 0 for none
}

// fieldsOf lists the fields of a struct in their order, those of inlined structs among them.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append(slices.Clone(f.Index), inner.index...)
				fields = append(fields, inner)
			}
			continue
		}
		known := field{name: name, index: f.Index, required: options != "omitempty"}
		// The error is that of a field without the tag.
		_, _ = fmt.Sscanf(f.Tag.Get("jsonschema"), "minimum=%d,maximum=%d", &known.least, &known.most)
		fields = append(fields, known)
	}
	return fields
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// join is the path of a field of what path names.
func join(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return path + "[" + quote(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// index is the path of an entry of the list that path names.
func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// parent is the path of what a field or entry is part of; the parent of "" is "".
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// shorten cuts a name off where it is too long for a message.
func shorten(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

// nearest is the name that word was probably meant to be, or empty.
func nearest(word string, names []string) string {
	if len(word) > 64 {
		return ""
	}
	best, least := "", 0
	for _, name := range names {
		a, b := strings.ToLower(word), strings.ToLower(name)
		d := distance(a, b)
		near := d <= (min(len(a), len(b))+2)/3 || len(a) > 3 && strings.HasPrefix(b, a)
		if near && (best == "" || d < least) {
			best, least = name, d
		}
	}
	return best
}

// distance is how many bytes must be put in, taken out, replaced, or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := []int(nil), []int(nil), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
