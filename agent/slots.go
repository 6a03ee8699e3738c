package agent

import (
	"cmp"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// slots gives the leave to restart containerd, so that not all nodes of a cluster do it at once. It does not wait for it.
type slots interface {
	// take takes the leave if it is there; it is used until free.
	take() bool
	// ask asks for the leave, which take may find later, and says what it waits for.
	ask() (why string)
	// free gives the leave back, or asks for it no more.
	free()
}

// freeSlots always gives it. It is for a node that has nobody to ask.
type freeSlots struct{}

func (freeSlots) take() bool  { return true }
func (freeSlots) ask() string { return "" }
func (freeSlots) free()       {}

// quietCoordinator is how long after its last answer it is said that a coordinator does not answer.
const quietCoordinator = 2 * time.Minute

// leave is what a coordinator says about restarting containerd. It is safe for concurrent use.
type leave struct {
	// changed is called, without locks held, when the node asks for something else than before.
	changed func()

	mu      sync.Mutex // guards what follows
	slot    report.Slot
	granted bool
	until   time.Time // when what is granted must have begun
	why     string    // why it is not granted
	at      time.Time // of the last answer
}

var (
	_ slots = freeSlots{}
	_ slots = (*leave)(nil)
)

func (l *leave) take() bool {
	l.mu.Lock()
	if l.slot != report.SlotWanted || !l.granted || !time.Now().Before(l.until) {
		held := l.slot == report.SlotHeld
		l.mu.Unlock()
		return held
	}
	l.slot = report.SlotHeld
	l.mu.Unlock()
	l.changed()
	return true
}

func (l *leave) ask() string {
	l.mu.Lock()
	why, news := cmp.Or(l.why, "it has not answered yet"), l.slot == report.SlotNone
	if news {
		l.slot, l.granted, l.why = report.SlotWanted, false, ""
		why = "it is asked now"
	} else if time.Since(l.at) > quietCoordinator {
		why = "it does not answer"
	}
	l.mu.Unlock()
	if news {
		l.changed()
	}
	return why
}

func (l *leave) free() {
	l.mu.Lock()
	news := l.slot != report.SlotNone
	l.slot, l.granted, l.why = report.SlotNone, false, ""
	l.mu.Unlock()
	if news {
		l.changed()
	}
}

// heard takes an answer. It reports whether there is something new about a leave that is waited for.
func (l *leave) heard(is report.Leave) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = time.Now()
	if l.slot != report.SlotWanted { // it is used, or nobody wants it
		return false
	}
	news = is.Granted || is.Reason != l.why
	l.granted, l.until, l.why = is.Granted, l.at.Add(is.For), is.Reason
	return news
}

// wanted is what the node does about the leave.
func (l *leave) wanted() report.Slot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slot
}
