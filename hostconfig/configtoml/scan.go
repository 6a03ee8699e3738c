package configtoml

import (
	"bytes"
	"slices"

	"github.com/pelletier/go-toml/v2/unstable"
)

// span is a range of bytes.
type span struct{ start, end int }

// entry is a key with its value, or a table header.
type entry struct {
	// path is the key from the root of the document.
	path []string
	// within is how many parts of path come from the table that the entry stands in.
	within int
	// key and value are where they stand. A header has no value.
	key, value span
	// inline are the entries of a value that is an inline table.
	isInline bool
	inline   []entry
}

// statement is what stands on one line, or on several: a header, or a key with its value.
type statement struct {
	entry
	header, array bool
	// lines are the lines that it stands on, with the last one's end.
	lines span
	line  int // of its start, from 1
}

// scan returns the statements of a TOML document in order.
func scan(data []byte) ([]statement, error) {
	p := unstable.Parser{}
	p.Reset(data)
	var (
		out   []statement
		table []string
	)
	line, counted := 1, 0
	for p.NextExpression() {
		e := p.Expression()
		s := statement{header: e.Kind != unstable.KeyValue, array: e.Kind == unstable.ArrayTable}
		end := 0
		if s.header {
			s.entry = entry{path: keyOf(e), key: keySpan(e)}
			table, end = s.path, s.key.end
		} else {
			s.entry = keyValue(e, data, table)
			end = s.value.end
		}
		s.lines = span{bytes.LastIndexByte(data[:s.key.start], '\n') + 1, lineEnd(data, end)}
		line += bytes.Count(data[counted:s.lines.start], []byte{'\n'})
		counted, s.line = s.lines.start, line
		out = append(out, s)
	}
	return out, p.Error()
}

func lineEnd(data []byte, from int) int {
	if i := bytes.IndexByte(data[from:], '\n'); i >= 0 {
		return from + i + 1
	}
	return len(data)
}

func keyValue(e *unstable.Node, data []byte, table []string) entry {
	out := entry{path: append(slices.Clone(table), keyOf(e)...), within: len(table), key: keySpan(e)}
	start := out.key.end + bytes.IndexByte(data[out.key.end:], '=') + 1
	for data[start] == ' ' || data[start] == '\t' {
		start++
	}
	out.value = span{start, int(e.Raw.Offset + e.Raw.Length)}
	v := e.Value()
	if out.isInline = v.Kind == unstable.InlineTable; out.isInline {
		for it := v.Children(); it.Next(); {
			out.inline = append(out.inline, keyValue(it.Node(), data, out.path))
		}
	}
	return out
}

func keyOf(e *unstable.Node) []string {
	var parts []string
	for it := e.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

func keySpan(e *unstable.Node) span {
	var s span
	for it := e.Key(); it.Next(); {
		raw := it.Node().Raw
		if s.end == 0 {
			s.start = int(raw.Offset)
		}
		s.end = int(raw.Offset + raw.Length)
	}
	return s
}

// walk calls visit for the entry, and for those of its inline tables where visit returns true.
func (e *entry) walk(visit func(*entry) (descend bool)) {
	if !visit(e) {
		return
	}
	for i := range e.inline {
		e.inline[i].walk(visit)
	}
}

// at returns the entry itself, or the one in its inline tables, that has the path.
func (e *entry) at(path []string) *entry {
	var found *entry
	e.walk(func(x *entry) bool {
		if found == nil && slices.Equal(x.path, path) {
			found = x
		}
		return found == nil && hasPrefix(path, x.path)
	})
	return found
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}

// find returns the key-value at path, in an inline table or not, and the statement that it is in.
func (f *File) find(path []string) (*entry, *statement) {
	for i := range f.statements {
		s := &f.statements[i]
		if s.header {
			continue
		}
		if e := s.at(path); e != nil {
			return e, s
		}
	}
	return nil, nil
}
