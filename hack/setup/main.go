// Command setup installs the Debian packages and builds the real parts that tests and the demo run.
//
//	go run ./hack/setup                     what make test needs
//	go run ./hack/setup all                 every part
//	go run ./hack/setup PART...             these parts
//	go run ./hack/setup -path PART          builds it if it is missing and prints the directory of its programs
//	go run ./hack/setup -list               prints the names of all parts
//
// Progress goes to standard error. A second run takes moments. An interrupted run leaves nothing that a later run
// would take for whole.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/tools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("setup", flag.ExitOnError)
	path := flags.String("path", "", "print the directory with the programs of this `part`; build it if it is missing")
	list := flags.Bool("list", false, "print the names of all parts")
	flags.Usage = func() {
		_, _ = fmt.Fprintln(flags.Output(), "usage: setup [-list] [-path PART] [all | PART...]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, p := range tools.Parts() {
			fmt.Println(p.Name)
		}
		return nil
	}
	told := false
	b, err := tools.NewBuilder(tools.Config{Progress: func(line string) {
		fmt.Fprintln(os.Stderr, line)
		told = true
	}})
	if err != nil {
		return err
	}
	if *path != "" {
		if flags.NArg() > 0 {
			return errors.New("-path takes one part and no further arguments")
		}
		dir, err := b.Ensure(ctx, *path)
		if err != nil {
			return err
		}
		fmt.Println(dir)
		return nil
	}
	names, err := wanted(flags.Args())
	if err != nil {
		return err
	}
	if err := b.InstallPackages(ctx); err != nil {
		return err
	}
	for _, name := range names {
		told = false
		if _, err := b.Ensure(ctx, name); err != nil {
			return err
		}
		if !told {
			fmt.Fprintln(os.Stderr, name+": cached")
		}
	}
	return nil
}

// wanted returns the names of the parts that the arguments ask for. A name that does not exist is an error before the
// first long build, not after it.
func wanted(args []string) ([]string, error) {
	all := len(args) == 1 && args[0] == "all"
	if len(args) > 0 && !all {
		var errs []error
		for _, name := range args {
			_, err := tools.Lookup(name)
			errs = append(errs, err)
		}
		return args, errors.Join(errs...)
	}
	var names []string
	for _, p := range tools.Parts() {
		if all || p.Default {
			names = append(names, p.Name)
		}
	}
	return names, nil
}
