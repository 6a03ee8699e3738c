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
	switch {
	case r.Released:
		ready = "released, as it was before hotplate"
	case r.Ready:
		ready = "Ready"
	}
	node := r.Node
	if node == "" {
		node = "node"
	}
	fmt.Fprintf(&b, "%s: %s\n", node, ready)
	if r.Released {
		writeTable(&b, r.conditionRows(now))
		return b.String()
	}
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
	if d := r.Disk; d != nil {
		fmt.Fprintf(&b, "disk %s: %s of %s free\n", d.Path, Bytes(d.Free), Bytes(d.Size))
	}
	r.writeProxies(&b)
	writeTable(&b, r.conditionRows(now))
	writeTable(&b, r.checkRows())
	writeTable(&b, r.restartRows(now))
	writeTable(&b, r.registryRows())
	writeTable(&b, r.throttledRows())
	writeTable(&b, r.certificateRows(now))
	writeTable(&b, r.imageRows(now))
	writeTable(&b, r.layerRows())
	r.writeAdvice(&b)
	writeTable(&b, r.unwantedRows())
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
		msg := c.Message
		if c.Type == HostsLive && c.Status != True {
			msg += r.nextTry(now)
		}
		rows = append(rows, []string{c.Type, string(c.Status), ago(now, c.LastTransitionTime), c.Reason, msg})
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

// throttledRows are the hosts that nothing is asked of for now.
func (r NodeReport) throttledRows() [][]string {
	rows := [][]string{{"REGISTRY HOST", "ASKED TO BE LEFT ALONE FOR"}}
	for _, t := range r.Throttled {
		rows = append(rows, []string{t.Host, t.For.Round(time.Second).String()})
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
	rows := [][]string{{"IMAGE", "PHASE", "REASON", "PINNED", "SIZE", "DONE", "WAY", "REF", "MESSAGE"}}
	for _, i := range r.Images {
		msg := i.Message
		if i.NotMountable {
			msg = strings.TrimSuffix("present, not mountable: "+msg, ": ")
		}
		if !i.Retry.IsZero() {
			msg += fmt.Sprintf(" (next try in %s)", max(i.Retry.Sub(now), 0).Round(time.Second))
		}
		rows = append(rows, []string{i.Name, string(i.Phase), i.Reason, yesNo(i.Pinned), orDash(i.Size), i.progress(), i.way(), i.Ref, msg})
	}
	return rows
}

// progress is what it has, and how fast the rest comes.
func (i Image) progress() string {
	if i.BytesTotal == 0 {
		return "-"
	}
	s := fmt.Sprintf("%d%% of %s", i.BytesDone*100/i.BytesTotal, Bytes(i.BytesTotal))
	if i.Rate > 0 {
		s += fmt.Sprintf(", %s, %s left", Rate(i.Rate), Left(i.Left))
	}
	return s
}

// way is how its layers got in, and whether they stayed.
func (i Image) way() string {
	switch {
	case i.Way == "":
		return "-"
	case i.Kept:
		return i.Way + ", layers kept"
	}
	return i.Way
}

// layerRows are those of the layers under way.
func (r NodeReport) layerRows() [][]string {
	rows := [][]string{{"IMAGE", "LAYER", "PHASE", "DONE", "RATE", "LEFT", "HOST", "WAITS FOR"}}
	for _, i := range r.Images {
		for _, l := range i.Layers {
			if l.Phase == ImagePending || l.Phase == ImageReady {
				continue
			}
			rows = append(rows, []string{i.Name, Short(l.Digest), string(l.Phase),
				fmt.Sprintf("%s of %s", Bytes(l.Done), Bytes(l.Size)), Rate(l.Rate), Left(l.Left), l.Host, l.WaitingFor})
		}
	}
	return rows
}

// writeAdvice says what bound the last pulls, why they did not go the direct way, and what would help.
func (r NodeReport) writeAdvice(b *strings.Builder) {
	var lines []string
	for _, i := range r.Images {
		if i.WayReason != "" {
			lines = append(lines, fmt.Sprintf("%s: not directly: %s", i.Name, i.WayReason))
		}
		if i.BoundBy != "" {
			lines = append(lines, fmt.Sprintf("%s: bound by %s", i.Name, i.BoundBy))
		}
		for _, a := range i.Advice {
			lines = append(lines, fmt.Sprintf("%s: advice: %s", i.Name, a))
		}
	}
	if len(lines) > 0 {
		b.WriteByte('\n')
	}
	for _, l := range lines {
		b.WriteString(plain(l) + "\n")
	}
}

func (r NodeReport) unwantedRows() [][]string {
	rows := [][]string{{"UNWANTED IMAGE", "SIZE", "STAYS BECAUSE"}}
	for _, u := range r.Unwanted {
		rows = append(rows, []string{u.ImageID, orDash(u.Size), u.Message})
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

// Rate writes bytes a second as people read them; a dash for none.
func Rate(n int64) string {
	if n <= 0 {
		return "-"
	}
	return Bytes(n) + "/s"
}

// RateOver is the Rate of n bytes in d.
func RateOver(n int64, d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return Rate(int64(float64(n) / d.Seconds()))
}

// Left writes how long something takes still, to the second; a dash where that is not known.
func Left(d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return max(d.Round(time.Second), time.Second).String()
}

// Short is what a person needs of a digest to tell it from the others.
func Short(digest string) string {
	const algorithm, hex = len("sha256:"), 12
	return digest[:min(algorithm+hex, len(digest))]
}

// orDash writes a number of bytes, or a dash where it is not known.
func orDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return Bytes(n)
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
