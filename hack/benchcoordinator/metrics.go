package main

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// series are the values of a page of Prometheus metrics, by name and labels as they are written there.
type series map[string]float64

// parseSeries reads the text format, without timestamps, which neither server writes.
func parseSeries(page []byte) series {
	out := series{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, text, ok := cutLast(lines.Text())
		if v, err := strconv.ParseFloat(text, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// writes are requests that the API server has carried out.
type writes struct{ nodes, events, reviews float64 }

func (w writes) sub(before writes) writes {
	return writes{w.nodes - before.nodes, w.events - before.events, w.reviews - before.reviews}
}

// writesOf counts what the API server has done for everybody.
func writesOf(s series) (w writes) {
	for name, v := range s {
		labels, ok := strings.CutPrefix(name, "apiserver_request_total{")
		if !ok || !strings.Contains(labels, `code="2`) || !isWrite(labels) {
			continue
		}
		switch {
		case strings.Contains(labels, `resource="nodes"`):
			w.nodes += v
		case strings.Contains(labels, `resource="events"`):
			w.events += v
		case strings.Contains(labels, `resource="tokenreviews"`):
			w.reviews += v
		}
	}
	return w
}

func isWrite(labels string) bool {
	for _, verb := range []string{"APPLY", "DELETE", "PATCH", "POST", "PUT"} {
		if strings.Contains(labels, `verb="`+verb+`"`) {
			return true
		}
	}
	return false
}

// The coordinator's own.
const (
	leadsSeries  = "hotplate_coordinator_leads"
	writesSeries = "hotplate_coordinator_writes"
)
