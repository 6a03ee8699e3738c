package hostconfig

import (
	"fmt"
	"strings"
)

// Severity says how bad a warning is.
type Severity string

// The severities.
const (
	// Info is worth knowing and needs no change.
	Info Severity = "info"
	// Warn does something else than its author most likely meant.
	Warn Severity = "warning"
	// Severe makes pulls fail, or makes containerd ignore the setting.
	Severe Severity = "error"
)

// Warning is one thing that containerd does silently.
type Warning struct {
	// Code is a stable word for programs, such as no-override-path.
	Code     string
	Severity Severity
	// Where is the file, and the table or key in it; it may be empty.
	Where string
	// Message says what containerd does, and what to write instead. It holds no secrets.
	Message string
}

// String writes the warning on one line.
func (w Warning) String() string {
	where := ""
	if w.Where != "" {
		where = w.Where + ": "
	}
	return fmt.Sprintf("%s: %s%s [%s]", w.Severity, where, w.Message, w.Code)
}

// warnings collects in order.
type warnings struct{ list []Warning }

func (ws *warnings) add(sev Severity, code, where, format string, args ...any) {
	ws.list = append(ws.list, Warning{
		Code: code, Severity: sev, Where: where, Message: fmt.Sprintf(format, args...),
	})
}

// addVersions adds a warning that is about some versions only: with the version known to have it as it is, with an
// unknown version as a mere Info, since which versions it concerns is part of the message.
func (ws *warnings) addVersions(v Version, t trait, sev Severity, code, where, format string, args ...any) {
	switch {
	case v.certainly(t):
		ws.add(sev, code, where, format, args...)
	case v.possibly(t):
		ws.add(Info, code, where, format, args...)
	}
}

// in puts a file name before the place of each warning.
func in(file string, list []Warning) []Warning {
	out := make([]Warning, len(list))
	for i, w := range list {
		w.Where = strings.TrimSuffix(file+": "+w.Where, ": ")
		out[i] = w
	}
	return out
}
