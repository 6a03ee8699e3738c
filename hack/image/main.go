package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

// byHand is the builder of images that nobody said more about.
const byHand = "https://github.com/hotplate-dev/hotplate/tree/main/hack/image#by-hand"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	out, version, revision, builder string
	push, ca, expect                string
	insecure                        bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "bin/image", "`directory` for the image and the files beside it; what is there is replaced")
	flags.StringVar(&o.version, "version", "", "`version` of the programs (default: what git describe says)")
	flags.StringVar(&o.revision, "revision", "", "`commit` that is built, where there is no git")
	flags.StringVar(&o.builder, "builder", byHand, "`URI` of who builds, for the provenance")
	flags.StringVar(&o.push, "push", "", "push to this `reference`, registry/repository:tag")
	flags.StringVar(&o.ca, "ca", "", "`file` with CA certificates to trust as well when pushing")
	flags.BoolVar(&o.insecure, "insecure", false, "push over plain HTTP, or to a certificate that nobody vouches for")
	flags.StringVar(&o.expect, "expect", "", "fail if the image has another `digest` than this, and push nothing then")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	tell := func(line string) { fmt.Fprintln(os.Stderr, "image:", line) }
	source, err := o.source(ctx, os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	if source.Modified {
		tell("there are changes that are not committed: nobody else can build this image")
	}
	result, err := build.Image(ctx, build.Config{Dir: ".", Source: source, Builder: o.builder, Progress: tell}, o.out)
	if err != nil {
		return err
	}
	if got := result.Digest.String(); o.expect != "" && got != o.expect {
		return fmt.Errorf("the image is %s, not %s: %s says of what it was made", got, o.expect, result.Provenance())
	}
	if o.push == "" {
		fmt.Println(result.Digest)
		return nil
	}
	var opts build.PushOptions
	opts.Insecure = o.insecure
	if o.ca != "" {
		if opts.CA, err = os.ReadFile(o.ca); err != nil {
			return err
		}
	}
	tell("push it to " + o.push)
	ref, err := result.Push(ctx, o.push, opts)
	if err != nil {
		return err
	}
	fmt.Println(ref)
	return nil
}

// source is what git says, except for what the flags and SOURCE_DATE_EPOCH say. Where they say everything, git is not
// asked whether that is so.
func (o options) source(ctx context.Context, epoch string) (build.Source, error) {
	var s build.Source
	if o.version == "" || o.revision == "" || epoch == "" {
		var err error
		if s, err = build.FromGit(ctx, "."); err != nil {
			return build.Source{}, fmt.Errorf("%w (without git, -version, -revision and SOURCE_DATE_EPOCH are needed)", err)
		}
	}
	if o.version != "" {
		s.Version = o.version
	}
	if o.revision != "" {
		s.Revision = o.revision
	}
	if epoch != "" {
		t, err := build.ParseEpoch(epoch)
		if err != nil {
			return build.Source{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		s.Time = t
	}
	return s, nil
}
