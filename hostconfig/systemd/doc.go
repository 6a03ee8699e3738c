// Package systemd is what hotplate asks of the node's systemd over D-Bus: the state of units, jobs and their results,
// commands on the node, and a dead-man switch. It knows nothing of containerd's configuration; package restart makes a
// transaction of it.
//
// # Access
//
// A [Manager] needs uid 0 of the node, no capability, and one of two directories of the node: /run/systemd, in which PID 1
// has a socket of its own, or /run/dbus with the message bus. The directories, not the sockets: a re-executed systemd
// makes new ones. User namespaces do not work, nor time namespaces for a rescue. Whoever has this access is root on the
// node.
//
// PID 1 sends every signal to every client of its own socket, asked for or not; so a Manager is for the time of a
// transaction, and not for the life of an agent. systemd must be 236 or newer, for CollectMode.
//
// The library go-systemd gets its results of jobs on a second connection. Then an answer that a job is over may overtake
// its result: seen on a busy node, where a finished job was taken for one whose result was lost. So both come on one
// connection here, and in order.
//
// # Jobs
//
// [Manager.Restart], Start and Stop:
//
//  1. Queue a job. If the connection ends under the request, nobody knows whether systemd got it: ErrConnectionLost.
//  2. Wait for its result; also on a new connection, if systemd is re-executed meanwhile.
//  3. Look every second whether there still is such a job, since no result comes for one that ended during a re-execution:
//     ErrResultLost.
//
// The result done means that systemd carried the job out, and no more. A crash leaves the job to systemd.
//
// # Commands on the node
//
// [Manager.RunOnHost] runs a program in a transient oneshot service, so in the node's namespaces, without a shell. Its
// output comes through two pipes. A crash leaves the command to its timeout, and its unit in the list of failed ones if it
// fails after that; the next run takes such units away.
//
// # The dead-man switch
//
// [Manager.Arm] makes a timer and a service, both transient, and reads back what systemd made of them. What was measured
// on systemd 252 shapes it:
//
//   - A $ or ; in a command is another word after a daemon-reload. They are refused.
//   - OnActiveSec counts from the last daemon-reload. So the time is also said in OnStartupSec, which does not.
//   - AccuracyUSec is a minute if nothing is said. It is 0.1 s here.
//   - Stopping the timer does not stop a service that runs. So [Manager.Disarm] stops the timer first and then asks the
//     service what has become of it.
//   - A service that ran is gone at once, and with it the answer. With RemainAfterExit it stays, until [Manager.Forget].
//
// A crash leaves it armed; that is what it is for. A reboot takes it away: [BootUnit] is for that case.
//
// # Tests
//
// Package systemdtest has a systemd in memory, and the suite that it and real systemd pass. TestOnNode runs the suite in a
// sandbox on a node, by both sockets, without capabilities.
package systemd
