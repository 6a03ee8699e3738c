//go:build e2e

// Package e2e tests the programs as they are shipped, on real parts: the built hotplate-agent and hotplate run as
// processes against a real containerd and real registries behind TLS, with the rig's proxy between them, which counts
// requests and misbehaves by script.
//
// What depends on containerd's own code runs on every line of HOTPLATE_LINES (see rigtest.Lines), the rest on the newest
// one. What depends on how layers get into containerd runs by both ways on the first and the last line of the run, and
// by the direct one on the others. Each test adds a row to a table, which is printed at the end and written as Markdown
// to the file that HOTPLATE_TABLE names. HOTPLATE_FULL=1 adds what takes minutes. What is random prints its seed, which
// HOTPLATE_SEED repeats.
//
// A run leaves nothing: the directories, daemons and mounts of a test go with it, also when it fails. The end of the log
// of each part is printed then.
package e2e
