//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

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

// write prints the table, and keeps it where rigtest.TableVariable says.
func (tb *table) write() error {
	rows := tb.merged()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONTAINERD\tWHAT\tRESULT\tEVIDENCE")
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r[:], "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if path := os.Getenv(rigtest.TableVariable); path != "" {
		return os.WriteFile(path, []byte(markdown(rows)), 0o644)
	}
	return nil
}

// merged is the table in order, lines with the same result and evidence as one row: lines, what, result, evidence.
func (tb *table) merged() (rows [][4]string) {
	slices.SortStableFunc(tb.rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.what, b.what), cmp.Compare(a.line, b.line))
	})
	at := make(map[[3]string]int)
	for _, r := range tb.rows {
		key := [3]string{r.what, r.result, strings.Join(r.evidence, "; ")}
		if i, ok := at[key]; ok {
			rows[i][0] += ", " + r.line
			continue
		}
		at[key] = len(rows)
		rows = append(rows, [4]string{r.line, key[0], key[1], key[2]})
	}
	return rows
}

func markdown(rows [][4]string) string {
	var b strings.Builder
	b.WriteString("# What the end-to-end tests showed\n\nWritten by `make e2e-full`; do not edit. ")
	b.WriteString(rigtest.Machine() + ".\n\n")
	b.WriteString("| containerd | what | result | evidence |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r[0], cell.Replace(r[1]), r[2], cell.Replace(r[3]))
	}
	return b.String()
}
