package build_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

// TestCheckFindsOtherSettings compiles as a user's settings could make the go command do it.
func TestCheckFindsOtherSettings(t *testing.T) {
	// Nothing but the runtime is compiled anew for each of the settings.
	dir := smallTree(t)
	if err := os.WriteFile(filepath.Join(dir, "cmd/small/main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	base := []string{"-trimpath", "-buildvcs=false"}
	for name, c := range map[string]struct {
		flags, env []string
		want       string // in the error; empty: there is none
	}{
		"as it should be":      {flags: base},
		"another processor":    {flags: base, env: []string{"GOAMD64=v3"}, want: "GOAMD64:v3"},
		"a tag":                {flags: append([]string{"-tags=mine"}, base...), want: "-tags:mine"},
		"an experiment":        {flags: base, env: []string{"GOEXPERIMENT=nodwarf5"}, want: "nodwarf5"},
		"with paths":           {flags: base[1:], want: "it was compiled with"},
		"for another platform": {flags: base, env: []string{"GOARCH=arm64", "GOARM64=v8.0"}, want: "EM_AARCH64"},
		"position-independent": {flags: append([]string{"-buildmode=pie"}, base...), want: "ET_DYN"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "small")
			cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-o", file}, c.flags...), "./cmd/small")...)
			cmd.Dir = dir
			cmd.Env = append(append(cmd.Environ(), build.Environment("amd64")...), c.env...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
			_, err := build.Check(file, "cmd/small", "amd64")
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
			if c.want == "" {
				if _, err := build.Check(file, "cmd/other", "amd64"); err == nil || !strings.Contains(err.Error(), "cmd/other") {
					t.Errorf("for another program the error is %v", err)
				}
			}
		})
	}
}

func TestDynamicProgramIsNotStatic(t *testing.T) {
	const shell = "/bin/sh"
	if err := build.CheckStatic(shell, "amd64"); err == nil {
		t.Errorf("%s, which needs libraries, is taken to be static", shell)
	}
}
