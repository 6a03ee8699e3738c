// Package hostconfigtest is for tests: it says what containerd's own library makes of a hosts directory, and makes
// certificates that are the same on every run.
//
// It asks ConfigureHosts of containerd 2.4, in memory and without a daemon. It writes only where it is told to, and a
// crash leaves what was written there.
package hostconfigtest
