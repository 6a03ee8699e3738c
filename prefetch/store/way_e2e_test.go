//go:build e2e

package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// discardConfig sets discard_unpacked_layers in the form of the line.
func discardConfig(line string) string {
	if strings.HasPrefix(line, "1.") {
		return "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndiscard_unpacked_layers = true\n"
	}
	return "[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n"
}

func TestDiscards(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		for _, set := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s set %v", line, set), func(t *testing.T) {
				cfg := rig.ContainerdConfig{Line: line}
				if set {
					cfg.ExtraConfig = discardConfig(line)
				}
				way, err := storeOf(rigtest.Containerd(t, cfg))(t).Way(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%+v", way)
				tells := strings.HasPrefix(line, "1.") || line == "2.4"
				if way.DiscardsKnown != tells || way.Discards != (set && tells) {
					t.Errorf("set %v: %+v", set, way)
				}
			})
		}
	}
}
