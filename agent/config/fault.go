package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxFaults bounds how many faults of one document are reported. Who has more than these fixes them first.
const maxFaults = 100

// Fault is one thing that is wrong with a document.
type Fault struct {
	// File is the name the document was read under; empty for a Config that did not come from a document.
	File string
	// Line is where the fault is, from 1; 0 for a Config that did not come from a document.
	Line int
	// Path is the field, such as registries[0].mirrors[1].url; empty for the document as a whole.
	Path string
	// Message says what is wrong and what to write instead. It holds no secret.
	Message string
}

// String is FILE:LINE: path: message.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
	}
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:", f.Line)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Faults is everything that is wrong with a document, in the order of its lines; as an error, one fault a line.
//
//nolint:errname // it is a list of Fault, and reads as one: for _, fault := range faults
type Faults []Fault

// Error lists the faults, one a line.
func (f Faults) Error() string { return strings.Join(f.Lines(), "\n") }

// Lines is one line of text for each fault.
func (f Faults) Lines() []string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return lines
}

// report is the faults of the named document in order, bounded; nil if there are none.
func (f Faults) report(name string) error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	f = slices.Compact(f)
	if more := len(f) - maxFaults; more > 0 {
		rest := Fault{Line: f[maxFaults].Line, Message: fmt.Sprintf("%d more faults from here on", more)}
		f = append(slices.Clip(f[:maxFaults]), rest)
	}
	for i := range f {
		f[i].File = name
	}
	return f
}
