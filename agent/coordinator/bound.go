package coordinator

import (
	"strings"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// maxWord bounds a reason, which becomes a value of a metric's label, in bytes.
	maxWord = 64
	// invalidWord stands for what is none.
	invalidWord = "Invalid"
)

// bound makes what a report says fit for where it is written: conditions of Nodes, ConfigMaps, Events, labels of metrics. An
// agent's own report is; whoever has its token may say anything, of report.MaxReport bytes.
func bound(r *report.NodeReport) {
	for i := range r.Conditions {
		c := &r.Conditions[i]
		c.Reason, c.Message = word(c.Reason), cut(c.Message)
	}
	for i := range r.Images {
		r.Images[i].Reason = word(r.Images[i].Reason)
	}
	for i := range r.Config.Rejected {
		r.Config.Rejected[i] = cut(r.Config.Rejected[i])
	}
	for i := range r.Restart.Records {
		record := &r.Restart.Records[i]
		record.How, record.Reason = word(record.How), cut(record.Reason)
	}
}

// word is s, if that is a word as Kubernetes has them for reasons, or nothing.
func word(s string) string {
	letter := func(c rune) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' }
	if len(s) > maxWord || strings.ContainsFunc(s, func(c rune) bool { return !letter(c) }) {
		return invalidWord
	}
	return s
}
