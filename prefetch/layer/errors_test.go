package layer_test

import (
	"errors"
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

func TestRefusedAsByContainerd(t *testing.T) {
	needsOverlay(t)
	for name, l := range refused() {
		t.Run(name, func(t *testing.T) {
			_, err := compare(t, blobs(t, l))
			var broken *layer.FormatError
			if !errors.As(err, &broken) {
				t.Fatalf("not a FormatError: %v", err)
			}
			t.Log(err)
		})
	}
}
