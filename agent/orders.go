package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// Coordinator says what this node should hold, and when it may do what. link.Link is one.
type Coordinator interface {
	// Run reports what state returns until ctx ends, and calls took with every answer, from one goroutine.
	Run(ctx context.Context, state func() report.NodeReport, took func(report.Directive))
	// Wake lets Run report soon, because something has changed. It never blocks.
	Wake()
}

// ErrRelease is what Run ends with when the coordinator asks the node to become as it was before hotplate.
var ErrRelease = errors.New("the coordinator releases this node")

// firstAnswer is how long an agent that has heard nothing before waits for the coordinator before it changes anything: the
// node may have been released. A coordinator that has much to do may ask it to come back within fifteen seconds.
const firstAnswer = 20 * time.Second

// What is said while the coordinator has not said it.
const (
	waitsForList   = "waits for the coordinator to say which images this node should hold"
	waitsForDigest = "waits for the coordinator to look up what its tag means"
	waitsForTurn   = "waits for its turn to pull, as the coordinator said last"
)

// orders is what the coordinator says. Together with the config in force it makes what the image worker works towards. It is
// safe for concurrent use.
type orders struct {
	log    *slog.Logger
	path   string // where what is in force is kept
	images *images.Worker
	leave  *leave
	// news is called when there is something new about the leave to restart.
	news  func()
	heard chan struct{} // closed by the first answer

	mu      sync.Mutex     // guards what follows
	alone   bool           // there is no coordinator: the config says all
	base    *images.Wanted // what the config in force says, without Images; nil before there is one
	plain   []config.Image // its images
	hash    string
	newest  *report.Directive // nil before there is one
	inForce *report.Directive // the newest that followed from the config that was in force then; nil before there is one
	set     []images.Image    // what was wanted last
	kept    string            // what the file holds
	waits   bool              // the log says that pulls wait
}

// newOrders reads what an earlier agent has kept.
func newOrders(path string, alone bool, log *slog.Logger, w *images.Worker) (*orders, error) {
	o := &orders{log: log, path: path, images: w, leave: &leave{changed: func() {}}, news: func() {}, alone: alone,
		heard: make(chan struct{})}
	if alone {
		return o, nil
	}
	d, err := loadDirective(path)
	if err != nil {
		return nil, err
	}
	if d != nil {
		o.inForce = d
		o.pull(d.Pull)
	}
	return o, nil
}

// await waits a little for the first answer, where nothing was ever heard of a coordinator.
func (o *orders) await(ctx context.Context) {
	o.mu.Lock()
	knows := o.alone || o.inForce != nil
	o.mu.Unlock()
	if knows {
		return
	}
	select {
	case <-o.heard:
	case <-time.After(firstAnswer):
	case <-ctx.Done():
	}
}

// config takes what a config that is in force says: base but for its images, which count where there is no coordinator.
func (o *orders) config(base images.Wanted, plain []config.Image, hash string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.base, o.plain, o.hash = &base, plain, hash
	o.enforce(true)
}

// took takes an answer of the coordinator.
func (o *orders) took(d report.Directive) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d.Release {
		o.log.Warn("the coordinator releases this node: all that hotplate did to it is taken back")
		return // Run ends
	}
	if o.newest == nil || o.newest.ConfigHash != d.ConfigHash {
		o.log.Info("the coordinator answers", "configHash", d.ConfigHash, "images", len(d.Images))
	}
	o.newest = &d
	// First, because what is wanted next must not begin without it.
	o.pull(d.Pull)
	throttled := make(map[string]time.Duration)
	for _, t := range d.Throttled {
		throttled[t.Host] = t.For
	}
	o.images.Throttle(throttled)
	o.enforce(false)
	if o.leave.heard(d.Restart) {
		o.news()
	}
	select {
	case <-o.heard:
	default:
		close(o.heard)
	}
}

// pull takes the leave to pull. The caller holds mu, or is alone.
func (o *orders) pull(is report.Leave) {
	why := ""
	if !is.Granted {
		if why = is.Reason; why == "" {
			why = waitsForTurn
		}
	}
	o.images.SetLeave(why)
	switch {
	case why != "" && !o.waits:
		o.log.Info("images that are not here wait", "why", why)
	case why == "" && o.waits:
		o.log.Info("images may be pulled")
	}
	o.waits = why != ""
}

// enforce makes what config and coordinator say what the image worker works towards, if it is new or must be. A Directive that
// follows from another config does not count: the images before it stay until the two agree. The caller holds mu.
func (o *orders) enforce(must bool) {
	if o.base == nil {
		return
	}
	if o.newest != nil && o.newest.ConfigHash == o.hash {
		o.inForce = o.newest
		o.keep()
	}
	wanted := *o.base
	switch {
	case o.alone:
		wanted.Images = images.Plain(o.plain)
	case o.inForce != nil:
		wanted.Images = directed(o.inForce.Images)
	default:
		wanted.Waits = waitsForList
		wanted.Images = everywhere(o.plain)
	}
	if !must && reflect.DeepEqual(wanted.Images, o.set) {
		return
	}
	o.set = wanted.Images
	o.images.SetWanted(wanted)
}

// directed are the images that a coordinator wants.
func directed(all []report.WantedImage) []images.Image {
	var out []images.Image
	for _, w := range all {
		img := images.Image{Digest: w.Digest, Image: config.Image{Name: w.Name, Ref: w.Ref, Aliases: w.Aliases, Platform: w.Platform,
			Priority: w.Priority, Pin: new(w.Pin)}}
		if _, err := digest.Parse(w.Digest); err != nil {
			img.Digest, img.Waits = "", waitsForDigest
		}
		out = append(out, img)
	}
	return out
}

// everywhere are the images of a config that every node holds, whatever its labels; they wait.
func everywhere(plain []config.Image) []images.Image {
	var out []images.Image
	for _, img := range plain {
		if len(img.NodeSelector) == 0 {
			out = append(out, images.Image{Image: img, Waits: waitsForList})
		}
	}
	return out
}

// keep writes what is in force to the file, if that is new: the images and the leave to pull, but not what is soon over. The
// caller holds mu.
func (o *orders) keep() {
	d := report.Directive{ConfigHash: o.inForce.ConfigHash, Images: o.inForce.Images, Pull: report.Leave{Granted: o.inForce.Pull.Granted}}
	text, err := json.Marshal(d)
	if err != nil || string(text) == o.kept {
		return // it came as JSON
	}
	if err := apply.WriteFile(o.path, text, 0o600); err != nil {
		o.log.Error("what the coordinator says would not be known after a restart", "err", err)
		return
	}
	o.kept = string(text)
}

// loadDirective reads what keep wrote; nil if there is none.
func loadDirective(path string) (*report.Directive, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the coordinator said last: %w", err)
	}
	defer func() { _ = f.Close() }()
	var d report.Directive
	if err := json.NewDecoder(io.LimitReader(f, 2*report.MaxDirective)).Decode(&d); err != nil {
		return nil, fmt.Errorf("read what the coordinator said last, remove %s to do without: %w", path, err)
	}
	return &d, nil
}
