package prefetch

// SetVolumeOf makes p look at other filesystems than those that there are.
func SetVolumeOf(p *Prefetcher, volumeOf func(dir string) Volume) { p.volumeOf = volumeOf }
