// Package tee hands blocks of bytes to several readers, in order and without copying them.
//
// A block travels like this:
//
//  1. [Tee.Write] waits until no reader is depth blocks behind, and queues the block. Its memory belongs to the Tee now.
//  2. Each [Reader] reads it at its own speed, by Read (which copies, as io.Reader must) or by WriteTo (which does not).
//  3. When the last of them has read it, its release function is called, once, by whoever was last.
//
// After Close(nil) the readers read what is queued, and then io.EOF. Everything else ends at once: after Close with an
// error the readers get that error, after [Reader.CloseWithError] the writer does. Blocks that nobody will read any more
// are released at that moment; one that is just being read, when that reader is done with it.
//
// A Tee has no goroutine and holds at most depth blocks. Nothing of it outlives the process.
package tee
