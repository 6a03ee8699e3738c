package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

// follow shows s, and what it becomes, until ctx ends. On a terminal the new stands in the place of the old.
func (o *statusOptions) follow(ctx context.Context, c cluster, s seen) error {
	file, ok := o.Out.(*os.File)
	inPlace := ok && term.IsTerminal(int(file.Fd())) && !o.structured()
	shown, trouble := "", ""
	for {
		if is := news(s); is != shown || inPlace { // a terminal shows how time passes, too
			shown = is
			if err := o.frame(s, trouble, inPlace); err != nil {
				return err
			}
		}
		if !wait(ctx, o.every) {
			return nil
		}
		next, err := o.look(ctx, c)
		if err == nil {
			s, trouble = next, ""
			continue
		}
		if ctx.Err() == nil && trouble != err.Error() && !inPlace {
			fmt.Fprintln(o.ErrOut, "note:", plain(hint(err)))
		}
		trouble = err.Error()
	}
}

// frame prints one state of what is followed.
func (o *statusOptions) frame(s seen, trouble string, inPlace bool) error {
	var text bytes.Buffer
	at := o.now().Format(time.TimeOnly)
	switch {
	case inPlace:
		text.WriteString("\x1b[H\x1b[J" + at + "\n")
		if trouble != "" {
			s.note = "this is as it was: " + trouble
		}
	case !o.structured():
		text.WriteString(at + "\n")
	}
	if s.note != "" && !o.structured() {
		fmt.Fprintln(&text, "note:", plain(s.note))
	}
	if err := o.show(&text, s); err != nil {
		return err
	}
	if !inPlace && !o.structured() {
		text.WriteByte('\n')
	}
	_, err := o.Out.Write(text.Bytes())
	return err
}

// wait returns false when ctx has ended before d has passed.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
