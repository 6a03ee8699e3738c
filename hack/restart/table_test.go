//go:build e2e

package restart_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// rows are what the table says, in the order in which the tests ran.
var rows table

type table struct {
	mu   sync.Mutex
	rows []row // guarded by mu
}

// row is one line of the table.
type row struct {
	group, fault, line, happened string
	// pods is what became of the pods that count.
	pods     string
	downtime time.Duration
}

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// write prints the table as Markdown, and keeps it in a file, if there is to be one.
func (t *table) write(file string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return nil
	}
	slices.SortStableFunc(t.rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.fault, b.fault), cmp.Compare(a.line, b.line))
	})
	var b strings.Builder
	fmt.Fprintf(&b, "# What becomes of each fault of a restart\n\nWritten by `make test-restart`; do not edit. %s, Linux %s.\n\n",
		rigtest.Machine(), kernel())
	b.WriteString("Each row was run on a node with systemd, or where the group says so without, with pods that count ten times a\n" +
		"second. `gap` is the longest time between two numbers of any of them, `away` is how long CRI did not answer, as hotplate\n" +
		"measured it, or as somebody who asks all the time has seen it. At the end of each row containerd worked.\n")
	group := ""
	for _, r := range t.rows {
		if r.group != group {
			group = r.group
			fmt.Fprintf(&b, "\n## %s\n\n| fault | containerd | what happened | pods | away |\n|---|---|---|---|---:|\n", group)
		}
		away := ""
		if r.downtime > 0 {
			away = r.downtime.Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.fault, r.line, r.happened, r.pods, away)
	}
	fmt.Print(b.String())
	if file == "" {
		return nil
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

func kernel() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail
	return unix.ByteSliceToString(uts.Release[:])
}
