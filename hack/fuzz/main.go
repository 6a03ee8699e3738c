// Command fuzz runs every fuzz target of the module, one after the other, each for the same time.
//
//	go run ./hack/fuzz -time 10s
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	each := flag.Duration("time", 10*time.Second, "how long each target runs")
	flag.Parse()
	if err := run(*each); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(each time.Duration) error {
	targets, err := find()
	if err != nil {
		return err
	}
	for _, t := range targets {
		fmt.Printf("fuzz: %s in %s\n", t.name, t.dir)
		cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), "-fuzzminimizetime", "10x", "./"+t.dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
		if err := cmd.Run(); err != nil && !outOfTime(out.String()) {
			return fmt.Errorf("%s in %s: %w", t.name, t.dir, err)
		}
	}
	fmt.Printf("fuzz: %d targets, %s each\n", len(targets), each)
	return nil
}

// outOfTime tells a run that go test calls failed because its time ended while a worker was busy: it has found nothing.
func outOfTime(out string) bool {
	return strings.Contains(out, "\n    context deadline exceeded\n") && !strings.Contains(out, "Failing input written")
}

type target struct{ dir, name string }

// find reads the targets from the test files that git knows.
func find() ([]target, error) {
	out, err := exec.Command("git", "ls-files", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("list test files: %w", err)
	}
	declared := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	var targets []target
	for file := range strings.FieldsSeq(string(out)) {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(data, []byte("//go:build")) {
			continue // needs real parts
		}
		for _, m := range declared.FindAllSubmatch(data, -1) {
			targets = append(targets, target{dir: filepath.Dir(file), name: string(m[1])})
		}
	}
	slices.SortFunc(targets, func(a, b target) int { return strings.Compare(a.dir+a.name, b.dir+b.name) })
	if len(targets) == 0 {
		return nil, fmt.Errorf("no fuzz target found")
	}
	return targets, nil
}
