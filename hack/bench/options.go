package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are what the environment asks for.
type options struct {
	quick       bool
	rounds      int
	images      []imageSpec
	links       []linkSpec
	contestants []contestant
	// dir is absolute. hotplate is the program.
	dir, hotplate string
	// limit bounds one pull.
	limit time.Duration
	// creationPulls is during how many pulls of each contestant other containers are created at most; creationSamples is
	// how many are enough.
	creationPulls, creationSamples int
}

// readOptions reads the variables that doc.go lists.
func readOptions(getenv func(string) string) (options, error) {
	o := options{rounds: 3, limit: 10 * time.Minute, creationPulls: 10, creationSamples: 100,
		hotplate: getenv("BENCH_HOTPLATE")}
	switch mode := getenv("BENCH"); mode {
	case "", "full":
	case "quick":
		o.quick, o.rounds, o.limit, o.creationPulls, o.creationSamples = true, 1, 2*time.Minute, 1, 10
	default:
		return o, fmt.Errorf("BENCH=%q: give quick, full or nothing", mode)
	}
	for name, to := range map[string]*int{"BENCH_ROUNDS": &o.rounds, "BENCH_CREATION_PULLS": &o.creationPulls} {
		s := getenv(name)
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("%s=%q: give a number from 1", name, s)
		}
		*to = n
	}
	var err error
	if o.images, err = pick("BENCH_IMAGES", getenv, imageSpecs(o.quick), imageSpec.label, always); err != nil {
		return o, err
	}
	if o.links, err = pick("BENCH_LINKS", getenv, linkSpecs(), linkSpec.label, always); err != nil {
		return o, err
	}
	o.contestants, err = pick("BENCH_CONTESTANTS", getenv, contestants(), contestant.label,
		func(c contestant) bool { return !c.optional })
	if err != nil {
		return o, err
	}
	return o, o.defaultPaths(getenv("BENCH_DIR"))
}

func (o *options) defaultPaths(dir string) (err error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find a place for the images: %w; give one in BENCH_DIR", err)
		}
		dir = filepath.Join(cache, "hotplate", "bench")
	}
	if o.hotplate == "" {
		o.hotplate = "bin/hotplate"
	}
	if o.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	o.hotplate, err = filepath.Abs(o.hotplate)
	return err
}

func always[T any](T) bool { return true }

// pick returns those of all that the variable names, in the order of all; without it those that are there by default.
func pick[T any](variable string, getenv func(string) string, all []T, label func(T) string, byDefault func(T) bool) ([]T, error) {
	wanted := strings.FieldsFunc(getenv(variable), func(r rune) bool { return r == ',' || r == ' ' })
	var known []string
	var picked []T
	for _, v := range all {
		known = append(known, label(v))
		if slices.Contains(wanted, label(v)) || len(wanted) == 0 && byDefault(v) {
			picked = append(picked, v)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("%s: there is no %q; there are %s", variable, w, strings.Join(known, ", "))
		}
	}
	return picked, nil
}

func (o options) mode() string {
	if o.quick {
		return "quick"
	}
	return "full"
}
