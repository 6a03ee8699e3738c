package generated

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompareShowsTheFirstDifference(t *testing.T) {
	if err := (File{Data: []byte("a\nb\n")}).compare([]byte("a\nb\n"), "gen"); err != nil {
		t.Errorf("equal files differ: %v", err)
	}
	for _, test := range []struct{ got, want, hint string }{
		{"a\nb\n", "a\nc\n", "line 2 on; run `gen` and commit it\n-b\n+c"},
		{"a\n", "a\nc\n", "line 2 on; run `gen` and commit it\n-\n+c"},
		{"a", "a\nc", "line 2 on; run `gen` and commit it\n-(end of file)\n+c"},
	} {
		err := File{Data: []byte(test.want)}.compare([]byte(test.got), "gen")
		if err == nil || !strings.HasSuffix(err.Error(), test.hint) {
			t.Errorf("%q and %q: %v", test.got, test.want, err)
		}
	}
}

func TestWhatIsWrittenVerifies(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "new", "file"), Data: []byte("a\n")}
	if err := f.Verify("gen"); err == nil || !strings.Contains(err.Error(), "run `gen`") {
		t.Errorf("a missing file: %v", err)
	}
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
	if err := f.Verify("gen"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(f.Path, []byte("b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Verify("gen"); err == nil {
		t.Error("a changed file is taken")
	}
}
