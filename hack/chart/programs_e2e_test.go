//go:build e2e

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheProgramsKnowTheirArguments asks the programs for their flags.
func TestTheProgramsKnowTheirArguments(t *testing.T) {
	h := atHelm(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./cmd/hotplate-agent", "./cmd/hotplate-coordinator")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	for _, p := range h.objects(t, everything).pods(t) {
		t.Run(p.name, func(t *testing.T) {
			c := p.container()
			if len(c.Command) != 1 || filepath.Dir(c.Command[0]) != "/" {
				t.Fatalf("the command is %v; programs are at the root of the image", c.Command)
			}
			var sub []string
			for _, arg := range c.Args {
				if !strings.HasPrefix(arg, "-") {
					sub = append(sub, arg)
				}
			}
			help, err := exec.CommandContext(t.Context(), filepath.Join(dir, c.Command[0]), append(sub, "--help")...).CombinedOutput()
			if len(sub) > 0 && !strings.Contains(string(help), filepath.Base(c.Command[0])+" "+sub[0]) {
				t.Fatalf("%s has no command %s", filepath.Base(c.Command[0]), sub[0])
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, help)
			}
			for _, arg := range c.Args[len(sub):] {
				name, _, _ := strings.Cut(arg, "=")
				if !strings.Contains(string(help), name+" ") {
					t.Errorf("%s does not know %s", c.Command[0], name)
				}
			}
		})
	}
}
