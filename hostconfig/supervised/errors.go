package supervised

import "errors"

var (
	// ErrSystemd means that this machine is systemd's: a containerd of systemd's must not be restarted behind its back.
	ErrSystemd = errors.New("systemd is process 1 here, and must be asked")
	// ErrPIDNamespace means that the daemon is in a PID namespace that this process does not see into.
	ErrPIDNamespace = errors.New("containerd is in another PID namespace, and cannot be told to end from here: " +
		"hotplate needs the node's (hostPID: true)")
	// ErrNotContainerd means that something else listens on the socket.
	ErrNotContainerd = errors.New("it is not containerd that listens there")
	// ErrTakesAll means that the daemon is process 1 of its PID namespace, or a child of one that ends with it: the kernel would
	// end every container too.
	ErrTakesAll = errors.New("containerd's end would be the end of its PID namespace and of every container: " +
		"let something be process 1 there that starts containerd again")
	// ErrNotRestarted means that the daemon has not ended, or was not started again, in time.
	ErrNotRestarted = errors.New("it has not started again")
	// ErrCannotCheck means that a program of the daemon's cannot be run here as it would be there.
	ErrCannotCheck = errors.New("the configuration cannot be checked here")
	// ErrNoTimer means that nothing can be armed, because there is no systemd.
	ErrNoTimer = errors.New("without systemd there is no timer that puts the old configuration back")

	// errNobody means that nobody listens on the socket now.
	errNobody = errors.New("nobody listens on containerd's socket")
)
