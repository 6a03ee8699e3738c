package config

import "time"

const (
	defaultDialTimeout = Duration(2 * time.Second)
	defaultMaxParallel = 8
	defaultMemory      = 256 * Mi
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
	if c.Prefetch.MaxParallel == 0 {
		c.Prefetch.MaxParallel = defaultMaxParallel
	}
	if c.Prefetch.Memory == 0 {
		c.Prefetch.Memory = defaultMemory
	}
}
