package config

import (
	"cmp"
	"time"
)

const (
	defaultDialTimeout = Duration(2 * time.Second)
	defaultMaxParallel = 32
	defaultMaxImages   = 2
	defaultMemory      = 256 * Mi
	defaultReserve     = Percent(15)
	defaultSoak        = Duration(30 * time.Second) // of hostconfig/restart

	defaultMaxUnavailable  = 1
	defaultConcurrentNodes = 10
	defaultResolveInterval = Duration(10 * time.Minute)
)

// Default sets what the document left out. Calling it twice is the same as once.
func (c *Config) Default() {
	for i := range c.Registries {
		r := &c.Registries[i]
		if r.Upstream == "" && len(r.Mirrors) == 0 {
			r.Upstream = Allow
		}
		for j := range r.Mirrors {
			m := &r.Mirrors[j]
			if len(m.Capabilities) == 0 {
				m.Capabilities = []Capability{Pull, Resolve}
			}
			if m.DialTimeout == 0 {
				m.DialTimeout = defaultDialTimeout
			}
		}
	}
	for i := range c.Images {
		if c.Images[i].Pin == nil {
			c.Images[i].Pin = new(true)
		}
	}
	c.Prefetch.setDefaults()
	c.Restart.setDefaults()
	c.Cluster.setDefaults()
}

func (c *Cluster) setDefaults() {
	c.MaxUnavailable = cmp.Or(c.MaxUnavailable, defaultMaxUnavailable)
	c.MaxConcurrentNodes = cmp.Or(c.MaxConcurrentNodes, defaultConcurrentNodes)
	c.ResolveInterval = cmp.Or(c.ResolveInterval, defaultResolveInterval)
}

func (p *Prefetch) setDefaults() {
	p.MaxParallel = cmp.Or(p.MaxParallel, defaultMaxParallel)
	p.MaxImages = cmp.Or(p.MaxImages, defaultMaxImages)
	p.Memory = cmp.Or(p.Memory, defaultMemory)
	p.KeepLayers = cmp.Or(p.KeepLayers, KeepAuto)
	p.Way = cmp.Or(p.Way, WayAuto)
	p.WhenUnwanted = cmp.Or(p.WhenUnwanted, Unpin)
	if p.DiskReserve == nil {
		p.DiskReserve = new(defaultReserve)
	}
}

func (r *Restart) setDefaults() {
	r.Policy = cmp.Or(r.Policy, RestartWhenNeeded)
	r.Soak = cmp.Or(r.Soak, defaultSoak)
	if r.Window != nil {
		r.Window.TimeZone = cmp.Or(r.Window.TimeZone, "UTC")
		r.Window.End = cmp.Or(r.Window.End, EndOfDay) // midnight ends the day
	}
}
