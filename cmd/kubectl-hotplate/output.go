package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// The values of --output. The empty one is text.
const (
	asJSON = "json"
	asYAML = "yaml"
	asWide = "wide"
	asName = "name"
)

// output is how a command prints; of is which other ways than text it has.
type output struct {
	how string
	of  []string
}

func (o *output) bind(cmd *cobra.Command, of ...string) {
	o.of = of
	cmd.Flags().StringVarP(&o.how, "output", "o", "", "Output format, one of: "+strings.Join(of, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(of, cobra.ShellCompDirectiveNoFileComp)) // there is that flag
}

func (o *output) check() error {
	if o.how != "" && !slices.Contains(o.of, o.how) {
		return fmt.Errorf("--output %q: use one of %s", o.how, strings.Join(o.of, ", "))
	}
	return nil
}

// structured tells whether a program is to read what is printed.
func (o *output) structured() bool { return o.how == asJSON || o.how == asYAML }

// print writes v for a program.
func (o *output) print(out io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "    ")
	if err == nil && o.how == asYAML {
		text, err = yaml.JSONToYAML(text)
		text = append([]byte("---\n"), text...)
	} else {
		text = append(text, '\n')
	}
	if err != nil {
		return fmt.Errorf("encode as %s: %w", o.how, err)
	}
	_, err = out.Write(text)
	return err
}

// table writes rows, the first of which is the head; a head alone is left out. Columns that no row fills are left out, too.
func table(out io.Writer, rows [][]string) {
	if len(rows) < 2 {
		return
	}
	filled := make([]bool, len(rows[0]))
	for _, row := range rows[1:] {
		for i, cell := range row {
			filled[i] = filled[i] || cell != ""
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		var cells []string
		for i, cell := range row {
			if filled[i] {
				cells = append(cells, plain(cell))
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
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

// barWidth is how many characters a bar has.
const barWidth = 20

// bar draws how much of total is done; unknown totals have an empty bar.
func bar(done, total int64, complete bool) string {
	share, percent := 0, "  - "
	switch {
	case complete:
		share, percent = barWidth, "100%"
	case total > 0:
		done = max(min(done, total), 0)
		share = int(float64(done) / float64(total) * barWidth)
		percent = fmt.Sprintf("%3d%%", min(int(float64(done)/float64(total)*100), 99)) // all bytes are not all of the work
	}
	return "[" + strings.Repeat("#", share) + strings.Repeat("-", barWidth-share) + "] " + percent
}

// amount is how many bytes of how many.
func amount(done, total int64) string {
	switch {
	case total <= 0:
		return ""
	case done >= total:
		return report.Bytes(total)
	}
	return report.Bytes(done) + " of " + report.Bytes(total)
}

// ago is how long ago t was.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(now.Sub(t), 0) // clocks differ
	switch {
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// few names some of many.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
