// Package images makes the images of a config ready on this node through package prefetch, and keeps them so.
//
// A Worker has these goroutines:
//
//  1. The scheduler removes what pulls of images that are not wanted any more have left, takes pins off images that left
//     the config, or removes those, and begins to prepare images in the order of their priority, each in a goroutine
//     of its own. An image that fails is tried again, less and less often, and holds up no other.
//  2. The looker asks containerd about images without asking a registry: once after the start, so that what is complete
//     is Ready at once, and every minute or when an image record changes while an image is Ready. One that lacks
//     something goes back to the scheduler.
//  3. The watcher tells the looker when an image record has changed.
//
// Where somebody else says what a tag means, as a coordinator does for all nodes, an image is asked for by its digest, and
// the tag is one of the names that point at it. Nothing is fetched without the leave (SetLeave), and nothing is let go
// before it is known what is wanted (Wanted.Waits).
//
// What the worker knows is gone after a crash, and found out again by looking. The pin is the memory of what was ours: an
// image that left the config while no agent ran is let go of at the next start.
package images
