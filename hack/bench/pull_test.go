package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

func TestRunCountedTellsWhatWasUsed(t *testing.T) {
	// 16 MiB in a variable, and arithmetic that takes the shell some time.
	script := `v=$(head -c 16777216 /dev/zero | tr '\0' x); i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ok`
	used, err := runCounted(t.Context(), exec.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	if used.PeakRSS < 16<<20 || used.PeakRSS > 1<<30 {
		t.Errorf("the peak is %d, want a little more than 16 MiB", used.PeakRSS)
	}
	if used.CPUSeconds <= 0 {
		t.Error("it used no processor time")
	}
}

func TestRunCountedSaysWhyAProgramFailed(t *testing.T) {
	_, err := runCounted(t.Context(), exec.Command("sh", "-c", "echo first; echo the reason >&2; exit 3"))
	if err == nil || !strings.HasSuffix(err.Error(), "exit status 3: the reason") {
		t.Errorf("got %v, want the status and the last line", err)
	}
}

func TestRunCountedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runCounted(ctx, exec.Command("sleep", "1000")); err == nil {
		t.Error("a killed program gave no error")
	}
}

func TestLastLinesKeepsTheEnd(t *testing.T) {
	var l lastLines
	for range 10_000 {
		if _, err := l.Write([]byte("progress progress progress\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	if got := l.String(); got != "the end" || l.Len() > 128<<10 {
		t.Errorf("last line %q of %d bytes", got, l.Len())
	}
}
