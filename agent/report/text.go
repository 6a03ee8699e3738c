package report

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Condition returns the condition of type t, or one that is Unknown when the report has none.
func (r NodeReport) Condition(t string) Condition {
	i := slices.IndexFunc(r.Conditions, func(c Condition) bool { return c.Type == t })
	if i < 0 {
		return Condition{Type: t, Status: Unknown, Reason: "NotObserved"}
	}
	return r.Conditions[i]
}

// Text is the report as a person reads it, times relative to now.
func (r NodeReport) Text(now time.Time) string {
	var b strings.Builder
	ready := "not Ready"
	if r.Ready {
		ready = "Ready"
	}
	node := r.Node
	if node == "" {
		node = "node"
	}
	fmt.Fprintf(&b, "%s: %s\n", node, ready)
	fmt.Fprintf(&b, "config %s from %s\n", short(r.Config.Hash), r.Config.Source)
	rejected := "REJECTED, the last good config stays in force"
	if r.Config.Hash == "" {
		rejected = "REJECTED, and no earlier config is in force"
	}
	for _, f := range r.Config.Rejected {
		fmt.Fprintf(&b, "  %s: %s\n", rejected, plain(f))
	}
	fmt.Fprintf(&b, "containerd %s at %s, hosts directory %s\n", orUnknown(r.Containerd.Version), r.Containerd.Address,
		r.Containerd.HostsDir)
	r.writeProxies(&b)
	writeTable(&b, r.conditionRows(now))
	writeTable(&b, r.registryRows())
	writeTable(&b, r.certificateRows(now))
	writeTable(&b, r.imageRows(now))
	return b.String()
}

func (r NodeReport) writeProxies(b *strings.Builder) {
	if r.AgentProxy == r.Containerd.Proxy {
		if r.AgentProxy != (Proxy{}) {
			fmt.Fprintf(b, "proxy %s\n", r.AgentProxy)
		}
		return
	}
	fmt.Fprintf(b, "proxy differs: containerd %s; agent %s\n", r.Containerd.Proxy, r.AgentProxy)
}

// String is the setting on one line.
func (p Proxy) String() string {
	if p == (Proxy{}) {
		return "none"
	}
	return fmt.Sprintf("http=%s https=%s no=%s", p.HTTP, p.HTTPS, p.No)
}

func (r NodeReport) conditionRows(now time.Time) [][]string {
	rows := [][]string{{"CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"}}
	for _, c := range r.Conditions {
		rows = append(rows, []string{c.Type, string(c.Status), ago(now, c.LastTransitionTime), c.Reason, c.Message})
	}
	return rows
}

func (r NodeReport) registryRows() [][]string {
	rows := [][]string{{"REGISTRY", "STATE", "MIRROR", "REACHABLE", "MESSAGE"}}
	for _, reg := range r.Registries {
		rows = append(rows, []string{reg.Host, string(reg.State), "", "", reg.Message})
		for _, m := range reg.Mirrors {
			msg := m.Message
			if m.Overlap {
				msg += "; old and new CA both trusted until the mirror's certificate verifies against the new one"
			}
			rows = append(rows, []string{"", "", m.URL, yesNo(m.Reachable), msg})
		}
	}
	return rows
}

func (r NodeReport) certificateRows(now time.Time) [][]string {
	rows := [][]string{{"CERTIFICATE", "STATE", "EXPIRES", "SUBJECT"}}
	for _, c := range r.Certificates {
		days := int(c.NotAfter.Sub(now).Hours() / 24)
		rows = append(rows, []string{c.Used, c.State, fmt.Sprintf("%s (%d days)", c.NotAfter.Format(time.DateOnly), days),
			c.Subject})
	}
	return rows
}

func (r NodeReport) imageRows(now time.Time) [][]string {
	rows := [][]string{{"IMAGE", "PHASE", "PINNED", "DONE", "REF", "MESSAGE"}}
	for _, i := range r.Images {
		done := "-"
		if i.BytesTotal > 0 {
			done = fmt.Sprintf("%d%% of %s", i.BytesDone*100/i.BytesTotal, Bytes(i.BytesTotal))
		}
		msg := i.Message
		if !i.Retry.IsZero() {
			msg += fmt.Sprintf(" (next try in %s)", max(i.Retry.Sub(now), 0).Round(time.Second))
		}
		rows = append(rows, []string{i.Name, string(i.Phase), yesNo(i.Pinned), done, i.Ref, msg})
	}
	return rows
}

// writeTable aligns rows, the first of which is the head; a head alone is left out.
func writeTable(b *strings.Builder, rows [][]string) {
	if len(rows) < 2 {
		return
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = plain(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	b.WriteByte('\n')
	for line := range strings.Lines(table.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// plain is s on one line and without what a terminal would obey: messages hold what registries answered.
func plain(s string) string {
	s = strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// Bytes writes a number of bytes as people read it, in powers of 1024.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return now.Sub(t).Round(time.Second).String()
}

func short(hash string) string {
	if hash == "" {
		return "none"
	}
	return hash[:min(12, len(hash))]
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
