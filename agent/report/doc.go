// Package report is the wire contract between the agent and whoever asks it: what a node is, as facts. It does no I/O.
package report
