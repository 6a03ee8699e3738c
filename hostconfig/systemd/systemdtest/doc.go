// Package systemdtest has a systemd for tests, and the suite that shows that it behaves as the real one.
//
// [Fake] keeps units in memory. It runs their state machine (start jobs, automatic restarts, start limits, dependants),
// runs transient units, and lets the timers of rescues fire. All its waiting is on the clock and on channels, so inside
// a testing/synctest bubble a rescue of 90 seconds takes no time. Commands are not executed, but those that hotplate uses
// have an effect: cp, mv and rm on files below [Fake.Root], systemctl on the Fake itself, and what [Fake.Programs]
// adds. [Fake.Before] and [Fake.After] make calls fail, not done or done all the same.
//
// [Cases] is the suite. Package systemd runs it against real systemd as well, on both sockets and without capabilities.
//
// What the Fake does not do: reading unit files, except those of systemd.BootUnit; jobs for more than one unit at a
// time; any ordering between units.
package systemdtest
