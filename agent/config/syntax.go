package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// syntaxFault says where a document stops being YAML, and why.
func syntaxFault(data []byte, err error) *Fault {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	message = linePrefix.ReplaceAllString(message, "")
	if strings.Contains(message, "cannot start any token") {
		message += " (a tab or one of @ ` % stands where it may not)"
	}
	return &Fault{Line: syntaxLine(data), Message: "not YAML from here on: " + message}
}

var linePrefix = regexp.MustCompile(`^line \d+: `)

// syntaxLine is the line after the longest part of the document that can be read. The YAML library names the line on
// which the innermost list or map begins, and that may be hundreds of lines before the fault.
//
// It halves the document, as if every part before the fault could be read and no longer one. That is so but for what
// spans lines, such as a list in brackets: when it has found a line it looks at a few more, and begins again behind the
// last of them that can be read. It gives up, and says what it has found, when it has read too much.
func syntaxLine(data []byte) int {
	const (
		ahead = 50
		most  = 32 << 20 // bytes read in all: less than a second
	)
	ends := lineEnds(data)
	read := 0
	readable := func(n int) bool {
		read += ends[n-1]
		return isYAML(data[:ends[n-1]])
	}
	good, bad := 0, len(ends) // the first good lines can be read, the first bad lines cannot
	for read < most {
		for bad-good > 1 && read < most {
			if mid := (good + bad) / 2; readable(mid) {
				good = mid
			} else {
				bad = mid
			}
		}
		again := false
		for n := min(bad+ahead, len(ends)-1); n > bad && read < most; n-- {
			if readable(n) {
				good, bad, again = n, len(ends), true
				break
			}
		}
		if !again {
			break
		}
	}
	return bad
}

// lineEnds is where each line ends, its line break included; at least one.
func lineEnds(data []byte) []int {
	var ends []int
	for i, b := range data {
		if b == '\n' || b == '\r' && (i+1 == len(data) || data[i+1] != '\n') {
			ends = append(ends, i+1)
		}
	}
	if len(ends) == 0 || ends[len(ends)-1] < len(data) {
		ends = append(ends, len(data))
	}
	return ends
}

func isYAML(data []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		if err := decoder.Decode(&node); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}
