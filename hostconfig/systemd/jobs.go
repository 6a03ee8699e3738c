package systemd

import (
	"sync"

	"github.com/godbus/dbus/v5"
)

// jobs hands out the results of jobs. It is the signal handler of a connection, which calls it before it reads what came
// next. So once systemd has answered that it knows a job no more, its result is here, or will never be.
type jobs struct {
	mu sync.Mutex
	// waiting are who waits for a job's result, with room for one each.
	waiting map[dbus.ObjectPath][]chan<- string
	// asking counts requests that may make a job. Meanwhile early keeps results that nobody waits for yet: the result
	// may come before the reply that says which job it is.
	asking int
	early  map[dbus.ObjectPath]string
}

func newJobs() *jobs {
	return &jobs{waiting: map[dbus.ObjectPath][]chan<- string{}, early: map[dbus.ObjectPath]string{}}
}

// DeliverSignal takes the result of a job. PID 1's own socket brings all other signals as well, asked for or not.
func (j *jobs) DeliverSignal(iface, name string, signal *dbus.Signal) {
	if iface != managerInterface || name != "JobRemoved" {
		return
	}
	var (
		id           uint32
		job          dbus.ObjectPath
		unit, result string
	)
	if dbus.Store(signal.Body, &id, &job, &unit, &result) != nil {
		return // not systemd's
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.waiting[job] {
		give(w, result)
	}
	delete(j.waiting, job)
	if j.asking > 0 {
		j.early[job] = result
	}
}

// queue makes a request that answers with a job, and sends the job's result to result.
func (j *jobs) queue(request func() (dbus.ObjectPath, error), result chan<- string) (dbus.ObjectPath, error) {
	j.mu.Lock()
	j.asking++
	j.mu.Unlock()
	job, err := request()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		if r, ok := j.early[job]; ok {
			give(result, r)
		} else {
			j.waiting[job] = append(j.waiting[job], result)
		}
	}
	if j.asking--; j.asking == 0 {
		clear(j.early)
	}
	return job, err
}

// give never waits: a result that is there already, from an earlier connection, is the same.
func give(to chan<- string, result string) {
	select {
	case to <- result:
	default:
	}
}

// watch sends the result of a job that was queued on another connection to result.
func (j *jobs) watch(job dbus.ObjectPath, result chan<- string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.waiting[job] = append(j.waiting[job], result)
}

// leave forgets who waits for a job.
func (j *jobs) leave(job dbus.ObjectPath, result chan<- string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kept := j.waiting[job][:0]
	for _, w := range j.waiting[job] {
		if w != result {
			kept = append(kept, w)
		}
	}
	if j.waiting[job] = kept; len(kept) == 0 {
		delete(j.waiting, job)
	}
}
