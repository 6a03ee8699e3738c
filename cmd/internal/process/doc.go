// Package process sets what a program may take of the machine: its priority for CPU and disk, and its memory. It keeps
// nothing, so a crash leaves nothing.
package process
