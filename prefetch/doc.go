// Package prefetch brings images to the node before a pod asks for them, and says when they are ready.
package prefetch
