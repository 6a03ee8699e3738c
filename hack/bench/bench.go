package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// bench is one run of all.
type bench struct {
	options
	proc    proc.FS
	device  proc.Device
	lib     *library
	links   []startedLink
	images  []stored
	report  *report.Report
	started time.Time
}

// idleLoad is the load average of a machine with nothing to do but what came before.
const idleLoad = 0.7

// startedLink is a link with its name.
type startedLink struct {
	link
	name string
}

// open gets everything ready: facts, registry, images, links.
func open(ctx context.Context, o options) (*bench, error) {
	b := &bench{options: o, proc: proc.Host(), started: time.Now(),
		report: &report.Report{Time: time.Now(), Mode: o.mode()}}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bench) open(ctx context.Context) error {
	if err := b.chooseContestants(ctx); err != nil {
		return err
	}
	var err error
	if b.lib, err = openLibrary(ctx, b.dir, b.mode()); err != nil {
		return err
	}
	// Before the disk has anything else to do.
	if b.report.Machine, err = machine(ctx, b.dir, b.hotplate); err != nil {
		return err
	}
	if load := b.report.Machine.Load; load > idleLoad {
		b.report.Notes = append(b.report.Notes, fmt.Sprintf(
			"The machine had work before it began (load average %.2f): a build, or somebody else's, which may go on in the numbers.", load))
	}
	if b.device, err = proc.DeviceOf(b.dir); err != nil {
		return err
	}
	for _, spec := range append(slices.Clone(b.options.images), tinyImage()) {
		img, err := b.lib.ensure(ctx, spec, b.say)
		if err != nil {
			return err
		}
		if spec.name == tinyImage().name {
			continue
		}
		b.images = append(b.images, img)
		b.report.Images = append(b.report.Images, img.report())
	}
	if err := b.checkSpace(); err != nil {
		return err
	}
	for _, spec := range b.options.links {
		l, err := spec.start(b.lib)
		if err != nil {
			return err
		}
		b.links = append(b.links, startedLink{l, spec.name})
		b.report.Links = append(b.report.Links, report.Link{Name: spec.name, Description: spec.description})
	}
	return nil
}

// checkSpace returns an error if the largest image might not fit: its blobs, unpacked, and as much again to be far from
// the reserve that hotplate leaves alone.
func (b *bench) checkSpace() error {
	var largest uint64
	for _, i := range b.images {
		largest = max(largest, uint64(i.bytes))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.dir, &st); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", b.dir, err)
	}
	free, need := st.Bavail*uint64(st.Bsize), 3*largest+st.Blocks*uint64(st.Bsize)*15/100
	if free < need {
		return fmt.Errorf("%s has %d MB free and needs %d MB: choose another BENCH_DIR, or smaller images with BENCH_IMAGES",
			b.dir, free/1e6, need/1e6)
	}
	return nil
}

// chooseContestants leaves out what this hotplate cannot do.
func (b *bench) chooseContestants(ctx context.Context) error {
	if !slices.ContainsFunc(b.contestants, contestant.hotplate) {
		return b.listContestants()
	}
	help, err := exec.CommandContext(ctx, b.hotplate, "pull", "--help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ask %s what it can: %w (make build makes it)", b.hotplate, err)
	}
	if strings.Contains(string(help), keepLayers) {
		return b.listContestants()
	}
	b.report.Notes = append(b.report.Notes, "This hotplate has no flag "+keepLayers+": it keeps blobs.")
	b.contestants = slices.DeleteFunc(b.contestants, func(c contestant) bool { return c.name == report.NotKept })
	for i, c := range b.contestants {
		if c.hotplate() {
			b.contestants[i].flags = []string{}
		}
	}
	return b.listContestants()
}

func (b *bench) listContestants() error {
	for _, c := range b.contestants {
		b.report.Contestants = append(b.report.Contestants, report.Contestant{Name: c.name, Description: c.description})
	}
	if len(b.contestants) == 0 {
		return errors.New("there is nobody to measure")
	}
	return nil
}

// Close ends links and registry. The images stay.
func (b *bench) Close() error {
	var errs []error
	for _, l := range b.links {
		errs = append(errs, l.Close())
	}
	errs = append(errs, os.RemoveAll(b.nodesDir()))
	if b.lib != nil {
		errs = append(errs, b.lib.Close())
	}
	return errors.Join(errs...)
}

// measure runs all rounds, then the creation of containers.
func (b *bench) measure(ctx context.Context) error {
	for _, l := range b.links {
		for _, img := range b.images {
			if b.quick && !quickCell(l.name, img.spec.name) {
				continue
			}
			for round := range b.rounds {
				if err := b.round(ctx, l, img, round); err != nil {
					return err
				}
			}
		}
	}
	return b.creations(ctx, b.images[0], b.links[0], b.links[0].name)
}

// quickCell leaves out of a quick run what takes long and shows nothing that others do not.
func quickCell(link, image string) bool { return link == report.LinkUnlimited || image == "A" }

// round lets each contestant pull once. Each round begins with another one.
func (b *bench) round(ctx context.Context, l startedLink, img stored, round int) error {
	for i := range b.contestants {
		c := b.contestants[(i+round)%len(b.contestants)]
		run, err := b.timed(ctx, img, l, l.name, c, round)
		if err != nil {
			return fmt.Errorf("%s, image %s, link %s: %w", c.name, img.spec.name, l.name, err)
		}
		b.report.Runs = append(b.report.Runs, run)
		line := fmt.Sprintf("image %s  %-13s  round %d  %-18s %7.2f s", run.Image, run.Link, round+1, run.Contestant, run.Seconds)
		if run.Failure != "" {
			line += "  FAILED: " + run.Failure
		}
		b.say(line)
	}
	return nil
}

func (b *bench) say(line string) {
	fmt.Printf("%6.0f s  %s\n", time.Since(b.started).Seconds(), line)
}
