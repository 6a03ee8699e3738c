// Package restart shows on real nodes what becomes of containerd and its containers when hotplate restart meets a fault. It
// has nothing but tests; each is one row of the table in docs/restart-faults.md, which the run writes.
//
// A row is a systemd node of package rig with pods that count every 100 ms, a fault, and hotplate restart in a sandbox with
// the mounts that a pod of hotplate's has, as uid 0 and without any capability. At the end of each row containerd works, and
// every pod has the process that it had, and has missed no number.
package restart
