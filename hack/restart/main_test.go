//go:build e2e

package restart_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// program is hotplate, and killer the program of that name, statically linked for sandboxes.
var program, killer string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hotplate-restart-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, killer = filepath.Join(dir, "hotplate"), filepath.Join(dir, "killer")
	build := exec.Command("go", "build", "-o", dir, "../../cmd/hotplate", "./killer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build hotplate: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	keep := os.Getenv(rigtest.TableVariable)
	if code != 0 {
		keep = ""
	}
	if err := rows.write(keep); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
