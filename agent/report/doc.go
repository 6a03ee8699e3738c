// Package report is the wire contract between the agent and whoever asks it: what a node is, as facts. The agent fills a
// NodeReport in, `hotplate status` and metrics show it. It does no I/O and holds no secrets; a crash leaves nothing.
package report
