package config

import "slices"

const (
	maxParallel  = 128
	maxImages    = 16
	minMemory    = 16 * Mi
	minBandwidth = Mi // a registry whose bytes come more slowly is given up
	minPinned    = Mi
)

func (v *validator) prefetch(p Prefetch) {
	if n := p.MaxParallel; n < 1 || n > maxParallel {
		v.fault("prefetch.maxParallel", "is %d; write a number from 1 to %d", n, maxParallel)
	}
	if n := p.MaxImages; n < 1 || n > maxImages {
		v.fault("prefetch.maxImages", "is %d; write a number from 1 to %d", n, maxImages)
	}
	atLeast := func(path string, n, least Bytes) {
		if n < least {
			v.fault(path, "is %s; write at least %s", n, least)
		}
	}
	atLeast("prefetch.memory", p.Memory, minMemory)
	if p.MaxBandwidth != 0 {
		atLeast("prefetch.maxBandwidth", p.MaxBandwidth, minBandwidth)
	}
	if p.MaxPinned != 0 {
		atLeast("prefetch.maxPinned", p.MaxPinned, minPinned)
	}
	oneOf(v, "prefetch.keepLayers", p.KeepLayers, KeepAuto, KeepAlways, KeepNever)
	oneOf(v, "prefetch.way", p.Way, WayAuto, WayAPI)
	oneOf(v, "prefetch.whenUnwanted", p.WhenUnwanted, Unpin, Delete)
}

// oneOf refuses a value that is none of known.
func oneOf[T ~string](v *validator, path string, value T, known ...T) {
	if slices.Contains(known, value) {
		return
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	v.fault(path, "is %s; write one of %s", quote(string(value)), list(names))
}
