package configtoml

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// redacted returns the document with everything that may be a secret replaced, on the same number of lines: the values
// of keys whose name, or whose table's name, says so, logins in URLs, and comments that look like such a key.
func redacted(data []byte) []byte {
	out := bytes.Clone(data)
	statements, err := scan(data)
	if err != nil {
		return redactedLines(out)
	}
	for _, s := range slices.Backward(statements) {
		var spans []span
		s.walk(func(e *entry) bool {
			if secretKey(e.path) && e.value.end > 0 {
				spans = append(spans, e.value)
				return false // its parts are within
			}
			return true
		})
		for _, at := range slices.Backward(spans) {
			newlines := strings.Repeat("\n", bytes.Count(data[at.start:at.end], []byte{'\n'}))
			out = slices.Replace(out, at.start, at.end, []byte("…"+newlines)...)
		}
	}
	return redactedLines(out)
}

// secretKey reports whether a key, or a table around it, is one whose values may be secret.
func secretKey(path []string) bool {
	return slices.ContainsFunc(path, func(part string) bool {
		part = strings.ToLower(part)
		return slices.Contains([]string{"auth", "auths", "header", "headers", "username"}, part) ||
			slices.ContainsFunc([]string{"password", "passwd", "token", "secret"}, func(word string) bool {
				return strings.Contains(part, word)
			})
	})
}

// redactedLines does what needs no parse.
func redactedLines(data []byte) []byte {
	login := regexp.MustCompile(`(://)[^/@\s"']+@`)
	comment := regexp.MustCompile(`(?i)(#[^\n]*(auth|passw|token|secret|header|username)[^\n=:]*[=:])[^\n]*`)
	return comment.ReplaceAll(login.ReplaceAll(data, []byte("${1}…@")), []byte("${1} …"))
}
