package main

import (
	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// contestant is one way to have an image on a node.
type contestant struct {
	name, description string
	// config is merged over the daemon's configuration. Empty: containerd as it comes.
	config string
	// flags are hotplate's; nil for those that let CRI pull.
	flags []string
	// optional ones have to be asked for by name.
	optional bool
}

func (c contestant) label() string { return c.name }

func (c contestant) hotplate() bool { return c.flags != nil }

// tuned are the settings of the transfer service, by which CRI pulls.
const tuned = `
[plugins.'io.containerd.transfer.v1.local']
max_concurrent_downloads = 32
concurrent_layer_fetch_buffer = 8388608
max_concurrent_unpacks = 10
`

// tunedLocal are CRI's own settings, with which it pulls by itself. It knows no parallel unpacking.
const tunedLocal = `
[plugins.'io.containerd.cri.v1.images']
max_concurrent_downloads = 32
concurrent_layer_fetch_buffer = 8388608
`

// keepLayers is the flag that chooses between the two ways of hotplate.
const keepLayers = "--keep-layers"

func contestants() []contestant {
	return []contestant{
		{name: report.Default, description: "containerd as it comes, by CRI PullImage"},
		{name: report.Tuned, config: tuned, description: "max_concurrent_downloads 32, concurrent_layer_fetch_buffer 8 MiB, " +
			"max_concurrent_unpacks 10 of io.containerd.transfer.v1.local, by CRI PullImage"},
		{name: "containerd-tuned-local", config: tunedLocal, optional: true, description: "max_concurrent_downloads 32, " +
			"concurrent_layer_fetch_buffer 8 MiB of io.containerd.cri.v1.images, by CRI PullImage"},
		{name: report.Kept, flags: []string{keepLayers, "Always"},
			description: "`hotplate pull` into containerd as it comes, blobs kept"},
		{name: report.NotKept, flags: []string{keepLayers, "Never"},
			description: "`hotplate pull` into containerd as it comes, blobs not kept"},
		{name: "hotplate-low-priority", flags: []string{keepLayers, "Always", "--low-priority"}, optional: true,
			description: "`hotplate pull --low-priority` into containerd as it comes, blobs kept"},
	}
}
