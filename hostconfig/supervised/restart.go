package supervised

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

const (
	// poll is how often it is looked who listens.
	poll = 20 * time.Millisecond
	// searchInterval is how often all processes are looked through for a daemon that hangs.
	searchInterval = time.Second
)

// Restart tells the daemon to end, and waits until one listens that was started after the call; the result is done then. It
// waits for as long as ctx lets it; the error is ErrNotRestarted after that.
func (m *Manager) Restart(ctx context.Context, name string) (result string, err error) {
	if err := m.known(name); err != nil {
		return "", err
	}
	e := &ending{manager: m, since: ticks(), told: make(map[string]*process)}
	defer e.close()
	return m.await(ctx, e.isNew, e.why)
}

// Start waits until the daemon listens.
func (m *Manager) Start(ctx context.Context, name string) (result string, err error) {
	if err := m.known(name); err != nil {
		return "", err
	}
	there := func(ctx context.Context) (bool, error) {
		p, err := m.listener(ctx)
		if err == nil {
			p.close()
		}
		return err == nil, err
	}
	return m.await(ctx, there, func() string { return errNobody.Error() })
}

// await looks until it has seen what it waits for. That somebody must not be ended, or cannot be, is an error at once.
func (m *Manager) await(ctx context.Context, look func(context.Context) (bool, error), why func() string) (string, error) {
	wait := time.NewTicker(poll)
	defer wait.Stop()
	for {
		ok, err := look(ctx)
		switch {
		case ok:
			return systemd.ResultDone, nil
		case errors.Is(err, ErrNotContainerd), errors.Is(err, ErrPIDNamespace), errors.Is(err, ErrTakesAll),
			errors.Is(err, unix.EPERM):
			return "", err
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %s", ErrNotRestarted, why())
		}
	}
}

// ending is one Restart.
type ending struct {
	manager  *Manager
	since    int64               // in ticks; a daemon that was not started after it may have read an older configuration
	told     map[string]*process // to end, by their ids
	hanging  []string            // numbers of processes that were started after the call, and do not listen
	others   []string            // of containerds of which it is not known whose they are
	searched time.Time
}

func (e *ending) close() {
	for _, p := range e.told {
		p.close()
	}
}

// isNew tells whether a daemon listens that was started after the call. Others it tells to end.
func (e *ending) isNew(ctx context.Context) (bool, error) {
	p, err := e.manager.listener(ctx)
	if errors.Is(err, errNobody) {
		return false, errors.Join(err, e.search())
	}
	if err != nil {
		return false, err
	}
	if p.start > e.since {
		p.close()
		return true, nil
	}
	return false, e.tell(p)
}

// tell tells a process to end, once, and takes it over.
func (e *ending) tell(p *process) error {
	if _, told := e.told[p.id()]; told {
		p.close()
		return nil
	}
	e.told[p.id()] = p
	return p.terminate()
}

// search looks now and then for a daemon that was not started after the call, and does not listen.
func (e *ending) search() error {
	if time.Since(e.searched) < searchInterval {
		return nil
	}
	e.searched, e.hanging, e.others = time.Now(), nil, nil
	pids, err := numbers()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		comm, err := readProc(fmt.Sprint(pid), "comm")
		if err != nil || strings.TrimSpace(string(comm)) != "containerd" {
			continue
		}
		fd, err := e.manager.pidfdOpen(pid)
		if err != nil {
			continue
		}
		p, err := openProcess(fd)
		if err != nil {
			continue
		}
		if err := e.found(p); err != nil {
			return err
		}
	}
	return nil
}

// found takes over a containerd that does not listen, or at another socket.
func (e *ending) found(p *process) error {
	_, told := e.told[p.id()]
	switch ours := told || e.manager.isSuccessor(p); {
	case !ours:
		e.others = append(e.others, fmt.Sprint(p.pid))
	case p.start > e.since:
		e.hanging = append(e.hanging, fmt.Sprint(p.pid))
	default:
		return e.tell(p)
	}
	p.close()
	return nil
}

// why says what is known of a daemon that did not come back.
func (e *ending) why() string {
	var living, ended []string
	for _, p := range e.told {
		if alive(p.fd) {
			living = append(living, fmt.Sprint(p.pid))
		} else {
			ended = append(ended, fmt.Sprint(p.pid))
		}
	}
	slices.Sort(living)
	slices.Sort(ended)
	hangs := ""
	switch {
	case len(e.hanging) > 0:
		hangs = fmt.Sprintf("; process %s was started and does not listen", strings.Join(e.hanging, ", "))
	case len(e.others) > 0:
		hangs = fmt.Sprintf("; process %s is a containerd that may hang instead: if it is this one, end it", strings.Join(e.others, ", "))
	}
	switch {
	case len(living) > 0:
		return fmt.Sprintf("process %s was told to end (SIGTERM) and has not", strings.Join(living, ", "))
	case len(ended) > 0:
		return fmt.Sprintf("process %s has ended, and no other listens", strings.Join(ended, ", ")) + hangs
	}
	return "nobody listens on its socket" + hangs
}
