package build

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// program is one that was compiled for one platform.
type program struct {
	name string // of the file
	file string
	info *debug.BuildInfo
}

// machines are the platforms that an image can be for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// level is the lowest processor of each architecture, which every one has.
var level = map[string][2]string{"amd64": {"GOAMD64", "v1"}, "arm64": {"GOARM64", "v8.0"}}

// buildFlags are what programs are compiled with, beside the version. -trimpath and -buildvcs=false keep the directory
// out of them; the linker's -s -w leaves out what only a debugger reads.
func buildFlags(version string) []string {
	return []string{"-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w -X main.version=" + version}
}

// compile builds the programs, which are packages below dir, and checks what came out of it.
func compile(ctx context.Context, dir, into string, packages []string, p v1.Platform, version string) ([]program, error) {
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"build", "-o", into + "/"}, buildFlags(version)...)
	for _, pkg := range packages {
		args = append(args, "./"+pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	if _, err := output(cmd, dir, environment(p.Architecture)...); err != nil {
		return nil, err
	}
	var programs []program
	for _, pkg := range packages {
		file := filepath.Join(into, path.Base(pkg))
		info, err := check(file, pkg, p.Architecture)
		if err != nil {
			return nil, fmt.Errorf("check %s for %s: %w", pkg, p, err)
		}
		programs = append(programs, program{name: path.Base(pkg), file: file, info: info})
	}
	return programs, nil
}

// environment sets what would change the result if it came from the user's. An empty variable would leave the choice to
// the user's `go env -w`, so none is empty.
func environment(arch string) []string {
	return []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, level[arch][0] + "=" + level[arch][1],
		"GOFLAGS=-buildvcs=false", "GOWORK=off",
	}
}

// check fails unless the file is what [compile] promises, whatever the user's settings are: the program of this
// package, for this architecture, statically linked, and compiled by this Go with these flags alone.
func check(file, pkg, arch string) (*debug.BuildInfo, error) {
	if err := checkStatic(file, machines[arch]); err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if want := path.Join(info.Main.Path, pkg); info.Path != want {
		return nil, fmt.Errorf("it is %s, not %s", info.Path, want)
	}
	// This program compresses the layers, and another Go may do that differently.
	if info.GoVersion != runtime.Version() {
		return nil, fmt.Errorf("the go command is %s and this program was compiled by %s: use one of them", info.GoVersion, runtime.Version())
	}
	want := map[string]string{
		"-buildmode": "exe", "-compiler": "gc", "-trimpath": "true",
		"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": arch, level[arch][0]: level[arch][1],
	}
	got := map[string]string{}
	for _, s := range info.Settings {
		if s.Key != "DefaultGODEBUG" { // comes from go.mod
			got[s.Key] = s.Value
		}
	}
	if !maps.Equal(got, want) {
		return nil, fmt.Errorf("it was compiled with %v, not with %v: is there a setting of yours in `go env -changed`?", got, want)
	}
	return info, nil
}

// checkStatic fails unless the file is a Linux program that needs no file but itself.
func checkStatic(file string, machine elf.Machine) error {
	f, err := elf.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	if f.Type != elf.ET_EXEC || f.Machine != machine {
		return fmt.Errorf("it is %s for %s, not %s for %s", f.Type, f.Machine, elf.ET_EXEC, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is not statically linked: it names an interpreter")
		}
	}
	if len(libraries) > 0 {
		return fmt.Errorf("it is not statically linked: it needs %v", libraries)
	}
	return nil
}

// output runs a command in dir and returns its standard output.
func output(cmd *exec.Cmd, dir string, env ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(cmd.Environ(), env...)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
