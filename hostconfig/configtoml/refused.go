package configtoml

import (
	"fmt"
	"strings"
)

// RefusedError says why hotplate does not edit a configuration, and what a person would change. It holds no secrets.
type RefusedError struct {
	// Code is a stable word for programs, such as mirrors.
	Code   string
	Reason string
	// Manual is what to change by hand, in this order.
	Manual []Step
}

// Step is one change for a person to make.
type Step struct {
	// File is the file to change, on the node.
	File string
	// Line is the first line concerned, from 1; 0 means that no line is.
	Line int
	// Remove is how many lines to take away, beginning with Line; Add are the lines to put in their place, or before
	// Line where none is taken away.
	Remove int
	Add    []string
	// Note says it in words, where there are no lines to name.
	Note string
}

// Error is one line if what to do is one, and otherwise has a line for each step.
func (r *RefusedError) Error() string {
	if len(r.Manual) == 1 && len(r.Manual[0].Add) == 0 {
		return fmt.Sprintf("%s; change it by hand: %s", r.Reason, r.Manual[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s; change it by hand:", r.Reason)
	for _, s := range r.Manual {
		b.WriteString("\n  " + strings.ReplaceAll(s.String(), "\n", "\n  "))
	}
	return b.String()
}

// String writes the step on one line, and each line to add on one of its own.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString("in " + s.File)
	switch {
	case s.Line == 0:
	case s.Remove > 1:
		fmt.Fprintf(&b, ", lines %d to %d", s.Line, s.Line+s.Remove-1)
	default:
		fmt.Fprintf(&b, ", line %d", s.Line)
	}
	switch {
	case s.Note != "":
		b.WriteString(": " + s.Note)
	case s.Remove > 0 && len(s.Add) > 0:
		b.WriteString(": replace by")
	case s.Remove > 0:
		b.WriteString(": remove")
	case s.Line > 0:
		b.WriteString(": put before")
	default:
		b.WriteString(": add at the end")
	}
	for _, line := range s.Add {
		b.WriteString("\n    " + line)
	}
	return b.String()
}
