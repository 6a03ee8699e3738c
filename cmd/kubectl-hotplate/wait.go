package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// hopeless is how long nodes may fail, while none makes progress, before they are not waited for any more. Agents try again after
// some seconds.
const hopeless = time.Minute

// waiting is a wait for a preheat.
type waiting struct {
	*plugin
	on       cluster
	document coordinator.RequestDocument
	selector string

	told    map[string]string // what was printed last, by node
	stuck   string            // what was said of all nodes when it last changed
	changed time.Time
}

// nodeWait is how far one node is.
type nodeWait struct {
	ready bool
	// fails says why it does not get on by itself; empty while it does.
	fails    string
	progress string
}

// wait returns when all nodes have the image, or no other will.
func (w *waiting) wait(ctx context.Context, request string) error {
	w.told = map[string]string{}
	lastErr := error(nil)
	for {
		all, err := w.lookAt(ctx)
		switch {
		case errors.Is(err, errNoNodes):
			return err
		case err == nil:
			w.tell(all)
			lastErr = nil
			if done, err := w.done(all, request); done {
				return err
			}
		case ctx.Err() == nil:
			if lastErr == nil || lastErr.Error() != err.Error() {
				fmt.Fprintln(w.ErrOut, "note:", plain(hint(err)))
			}
			lastErr = err
		}
		if !wait(ctx, w.every) {
			return w.gaveUp(ctx, all, lastErr, request)
		}
	}
}

var errNoNodes = errors.New("no node matches, so there is nothing to wait for")

// lookAt is how far every node that the request is for is.
func (w *waiting) lookAt(ctx context.Context) (map[string]nodeWait, error) {
	names := w.document.Nodes
	if len(names) == 0 {
		nodes, err := w.on.nodes(ctx, w.selector)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return nil, errNoNodes
	}
	heard, err := w.on.heard(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]coordinator.NodeStatus{}
	for _, is := range heard {
		byName[is.Node] = is
	}
	all := map[string]nodeWait{}
	for _, name := range names {
		is, ok := byName[name]
		all[name] = judge(is, ok, w.document.Ref)
	}
	return all, nil
}

// judge is how far a node is with an image; heard tells whether the coordinator has heard it.
func judge(n coordinator.NodeStatus, heard bool, ref string) nodeWait {
	if !heard {
		return nodeWait{fails: "the coordinator hears no agent there"}
	}
	img, ok := wantedAs(n, ref)
	switch {
	case n.Ready == report.Unknown:
		return nodeWait{fails: n.Reason + ": " + n.Message} // nobody knows whether it still has it
	case !ok:
		return nodeWait{fails: "the coordinator has not taken up the request"}
	case img.State == coordinator.ImageReady:
		return nodeWait{ready: true}
	case img.State == coordinator.ImageFailed, img.Digest == "" && n.Reason == coordinator.ReasonUnresolved:
		return nodeWait{fails: n.Message}
	}
	return nodeWait{progress: strings.TrimSpace(bar(img.Done, img.Total, false) + " " + amount(img.Done, img.Total))}
}

// wantedAs is the image that a node should hold under a reference.
func wantedAs(n coordinator.NodeStatus, ref string) (coordinator.ImageStatus, bool) {
	i := slices.IndexFunc(n.Images, func(img coordinator.ImageStatus) bool {
		return slices.ContainsFunc(append([]string{img.Ref}, img.Aliases...), func(name string) bool { return same(name, ref) })
	})
	if i < 0 {
		return coordinator.ImageStatus{}, false
	}
	return n.Images[i], true
}

// same tells whether two references mean the same name, however they are written.
func same(a, b string) bool {
	x, err := config.ParseRef(a)
	y, err2 := config.ParseRef(b)
	return a == b || err == nil && err2 == nil && x.String() == y.String()
}

// tell prints what is new.
func (w *waiting) tell(all map[string]nodeWait) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		line := all[name].progress
		switch is := all[name]; {
		case is.ready:
			line = "Ready"
		case is.fails != "":
			line = is.fails
		}
		if w.told[name] != line {
			w.told[name] = line
			fmt.Fprintf(w.ErrOut, "%s: %s\n", name, plain(line))
		}
	}
}

// done tells whether nothing is to be waited for any more, and what came of it.
func (w *waiting) done(all map[string]nodeWait, request string) (bool, error) {
	var failing, state []string
	open := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		is := all[name]
		switch {
		case is.ready:
		case is.fails != "":
			failing = append(failing, name)
		default:
			open++
		}
		state = append(state, fmt.Sprint(is.ready, is.progress))
	}
	if open+len(failing) == 0 {
		fmt.Fprintf(w.ErrOut, "%s Ready\n", count(len(all), "node"))
		return true, nil
	}
	if now := fmt.Sprint(state); now != w.stuck || open > 0 {
		w.stuck, w.changed = now, w.now()
		return false, nil
	}
	if w.now().Sub(w.changed) < hopeless {
		return false, nil
	}
	return true, fmt.Errorf("%s of %d without the image: %s. The request stays, and agents go on trying: kubectl hotplate cancel %s ends "+
		"that, kubectl hotplate explain %s --node %s says more", count(len(failing), "node"), len(all), few(failing), request, w.document.Ref, failing[0])
}

func (w *waiting) gaveUp(ctx context.Context, all map[string]nodeWait, err error, request string) error {
	if err != nil {
		return fmt.Errorf("how far nodes are is not known: %w", err)
	}
	var open []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !all[name].ready {
			open = append(open, name)
		}
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("interrupted; the request %s stays", request)
	}
	return fmt.Errorf("timed out; without the image: %s. The request %s stays", few(open), request)
}
