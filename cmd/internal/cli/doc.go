// Package cli holds what all programs have in common: logging flags, the defaults of a stock node, how they come
// to containerd, to what keeps it running, and to prefetch, and how a program ends. It keeps nothing, so a crash leaves nothing.
package cli
