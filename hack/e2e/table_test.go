//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// TableVariable names the file to which the table is written as Markdown.
const TableVariable = "HOTPLATE_TABLE"

// results is the table of this run.
var results table

// table collects what was shown, one row a test.
type table struct {
	mu   sync.Mutex
	rows []*row
}

// row is one line of the table. It belongs to the goroutine of its test until the test ends.
type row struct {
	group, line, what, result string
	evidence                  []string
}

// shows begins the row of a test: what it shows, as a sentence, on which containerd line. The result is the test's own.
func shows(t *testing.T, line, what string) *row {
	t.Helper()
	group, _, _ := strings.Cut(t.Name(), "/")
	r := &row{group: group, line: line, what: what}
	t.Cleanup(func() {
		switch {
		case t.Failed():
			r.result = "FAIL"
		case t.Skipped():
			r.result = "skipped"
		default:
			r.result = "ok"
		}
		results.mu.Lock()
		defer results.mu.Unlock()
		results.rows = append(results.rows, r)
	})
	return r
}

// saw adds what was counted or measured.
func (r *row) saw(format string, args ...any) {
	r.evidence = append(r.evidence, fmt.Sprintf(format, args...))
}

// write prints the table, and keeps it where TableVariable says.
func (tb *table) write() error {
	slices.SortStableFunc(tb.rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.what, b.what), cmp.Compare(a.line, b.line))
	})
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LINE\tWHAT\tRESULT\tEVIDENCE")
	for _, r := range tb.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.line, r.what, r.result, strings.Join(r.evidence, "; "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if path := os.Getenv(TableVariable); path != "" {
		return os.WriteFile(path, []byte(tb.markdown()), 0o644)
	}
	return nil
}

func (tb *table) markdown() string {
	var b strings.Builder
	b.WriteString("# What the end-to-end tests showed\n\nWritten by `make e2e-full`; do not edit. ")
	fmt.Fprintf(&b, "%s on %s/%s, %d CPUs.\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	b.WriteString("| containerd | what | result | evidence |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;")
	for _, r := range tb.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.line, cell.Replace(r.what), r.result,
			cell.Replace(strings.Join(r.evidence, "; ")))
	}
	return b.String()
}
