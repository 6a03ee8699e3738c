package configtoml

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// change replaces data[at.start:at.end] by text.
type change struct {
	at   span
	text string
}

// apply makes the changes, which must not overlap.
func apply(data []byte, changes []change) []byte {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.at.start, b.at.start) })
	var out []byte
	done := 0
	for _, c := range changes {
		out = append(append(out, data[done:c.at.start]...), c.text...)
		done = c.at.end
	}
	return append(out, data[done:]...)
}

// setKey returns the change that makes the string at key be value: the smallest in the style of the file.
func (f *File) setKey(key []string, value string) change {
	if e, _ := f.find(key); e != nil {
		return change{at: e.value, text: f.quoteLike(e.value, value)}
	}
	w := writer{File: f, key: key, value: value}
	for n := len(key) - 1; n > 0; n-- {
		if c, ok := w.inInlineTable(n); ok {
			return c
		}
		if c, ok := w.besideDottedKeys(n); ok {
			return c
		}
		if c, ok := w.underHeader(n); ok {
			return c
		}
	}
	return w.atTheEnd()
}

// quoteLike keeps the quotes of the value that is replaced. Values have no quotes and no backslash in them (validDir).
func (f *File) quoteLike(old span, value string) string {
	if f.Data[old.start] == '\'' {
		return "'" + value + "'"
	}
	return `"` + value + `"`
}

// writer puts a key where it is not yet.
type writer struct {
	*File
	key   []string
	value string
}

// inInlineTable: the table key[:n] is written as { … }.
func (w *writer) inInlineTable(n int) (change, bool) {
	e, _ := w.find(w.key[:n])
	if e == nil || !e.isInline {
		return change{}, false
	}
	text := w.nested(n)
	if len(e.inline) > 0 {
		at := e.inline[0].key.start
		return change{at: span{at, at}, text: text + ", "}, true
	}
	at := e.value.start + 1
	text = " " + text
	if w.Data[at] == '}' {
		text += " "
	}
	return change{at: span{at, at}, text: text}, true
}

// nested writes what is below key[:n] as keys and inline tables.
func (w *writer) nested(n int) string {
	rest := w.key[n:]
	text := w.part(rest[len(rest)-1]) + " = " + w.quoted()
	for _, part := range slices.Backward(rest[:len(rest)-1]) {
		text = w.part(part) + " = { " + text + " }"
	}
	return text
}

// besideDottedKeys: the table key[:n] exists because of dotted keys, such as registry.headers = …; TOML does not let it
// have a header as well.
func (w *writer) besideDottedKeys(n int) (change, bool) {
	for _, s := range slices.Backward(w.statements) {
		if s.header || s.within >= n || len(s.path) <= n || !hasPrefix(s.path, w.key[:n]) {
			continue
		}
		text := w.indent(s) + w.dotted(w.key[s.within:]) + " = " + w.quoted()
		return w.insertLines(s.lines.end, text), true
	}
	return change{}, false
}

// underHeader: the table key[:n] has a header, or tables below it have.
func (w *writer) underHeader(n int) (change, bool) {
	table := w.key[:len(w.key)-1]
	own := slices.IndexFunc(w.statements, func(s statement) bool { return s.header && slices.Equal(s.path, w.key[:n]) })
	below := slices.IndexFunc(w.statements, func(s statement) bool {
		return s.header && len(s.path) > n && hasPrefix(s.path, w.key[:n])
	})
	switch {
	case own >= 0 && n == len(table):
		return w.insertLines(w.statements[own].lines.end, w.keyIndent(own)+w.nested(n)), true
	case n < 2: // a table of another plugin; a new one goes to the end
		return change{}, false
	case n == len(table) && below >= 0:
		return w.newTable(w.above(below), below, w.indent(w.statements[below])), true
	case own >= 0:
		next := own + 1
		for next < len(w.statements) && !w.statements[next].header {
			next++
		}
		return w.newTable(w.above(next), next, w.tableIndent(w.statements[own])), true
	case below >= 0:
		return w.newTable(w.above(below), below, w.indent(w.statements[below])), true
	}
	return change{}, false
}

func (w *writer) atTheEnd() change {
	indent := ""
	for _, s := range w.statements {
		if s.header && len(s.path) == len(w.key)-1 && s.path[0] == w.key[0] {
			indent = w.indent(s)
		}
	}
	return w.newTable(len(w.Data), len(w.statements), indent)
}

// newTable puts [key…] and the key before statement `next`, at offset at.
func (w *writer) newTable(at, next int, indent string) change {
	text := []string{
		indent + "[" + w.dotted(w.key[:len(w.key)-1]) + "]",
		indent + w.unit() + w.nested(len(w.key)-1),
	}
	before := w.Data[:at]
	if len(bytes.TrimSpace(before)) > 0 && !endsWithBlankLine(before) {
		text = slices.Insert(text, 0, "")
	}
	if next < len(w.statements) {
		text = append(text, "")
	}
	return w.insertLines(at, text...)
}

func endsWithBlankLine(data []byte) bool {
	trimmed := bytes.TrimRight(data, " \t\r\n")
	return bytes.Count(data[len(trimmed):], []byte{'\n'}) > 1
}

// insertLines puts whole lines at an offset where a line begins, or at the end of the file. If that has no newline, it
// has none afterwards either.
func (w *writer) insertLines(at int, text ...string) change {
	eol := w.eol()
	joined := strings.Join(text, eol)
	if at > 0 && at == len(w.Data) && w.Data[at-1] != '\n' {
		return change{at: span{at, at}, text: eol + joined}
	}
	return change{at: span{at, at}, text: joined + eol}
}

func (f *File) eol() string {
	if i := bytes.IndexByte(f.Data, '\n'); i > 0 && f.Data[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// above returns the start of the comment that stands right above a statement, or of the statement.
func (w *writer) above(i int) int {
	if i == len(w.statements) {
		return len(w.Data)
	}
	at := w.statements[i].lines.start
	for at > 0 {
		start := bytes.LastIndexByte(w.Data[:at-1], '\n') + 1
		if !bytes.HasPrefix(bytes.TrimSpace(w.Data[start:at]), []byte{'#'}) {
			break
		}
		if i > 0 && start < w.statements[i-1].lines.end {
			break // the last line of a string that looks like a comment
		}
		at = start
	}
	return at
}

// indent returns the white space before a statement.
func (f *File) indent(s statement) string {
	line := f.Data[s.lines.start:s.key.start]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// unit returns by how much the file indents keys below their header.
func (f *File) unit() string {
	for i, s := range f.statements {
		if i == 0 || s.header || !f.statements[i-1].header {
			continue
		}
		if unit, ok := strings.CutPrefix(f.indent(s), f.indent(f.statements[i-1])); ok {
			return unit
		}
	}
	return ""
}

// keyIndent returns the indentation of the keys below header i.
func (f *File) keyIndent(i int) string {
	if i+1 < len(f.statements) && !f.statements[i+1].header {
		return f.indent(f.statements[i+1])
	}
	return f.indent(f.statements[i]) + f.unit()
}

// tableIndent returns the indentation of a table below the one with this header.
func (f *File) tableIndent(parent statement) string {
	for _, s := range f.statements {
		if s.header && len(s.path) > len(parent.path) && hasPrefix(s.path, parent.path) {
			return f.indent(s)
		}
	}
	if f.indent(parent) == "" {
		return ""
	}
	return f.indent(parent) + f.unit()
}

func (w *writer) quoted() string { return w.quote() + w.value + w.quote() }

// quote returns the quotes that the file has around the plugin's name, or around any.
func (w *writer) quote() string {
	if bytes.Contains(w.Data, []byte("'"+w.key[1]+"'")) || !bytes.Contains(w.Data, []byte{'"'}) &&
		bytes.Contains(w.Data, []byte{'\''}) {
		return "'"
	}
	return `"`
}

func (w *writer) dotted(key []string) string {
	parts := make([]string, len(key))
	for i, part := range key {
		parts[i] = w.part(part)
	}
	return strings.Join(parts, ".")
}

// part writes one part of a key. All that are written here are plugin names, or need no quotes.
func (w *writer) part(part string) string {
	if strings.Contains(part, ".") {
		return w.quote() + part + w.quote()
	}
	return part
}

// remove returns the changes that take away the statements of these tables and keys, with everything below. ok is false
// where one of them stands on a line with something else.
func (f *File) remove(tables ...[]string) (changes []change, ok bool) {
	for i := range f.statements {
		s := &f.statements[i]
		for _, t := range tables {
			switch {
			case hasPrefix(s.path, t):
				changes = append(changes, change{at: s.lines})
			case s.at(t) != nil:
				return nil, false
			}
		}
	}
	return changes, true
}
