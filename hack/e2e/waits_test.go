//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// neverFailed ends the test if an image has failed: a daemon or a registry that is away for a moment is a pause.
func neverFailed(t *testing.T) want {
	return func(r report.NodeReport) string {
		for _, img := range r.Images {
			if img.Phase == report.ImageFailed {
				t.Fatalf("image %s failed: %s", img.Name, img.Message)
			}
		}
		return ""
	}
}

// asked wants the registry to have sent so many bytes.
func asked(s *site, least int64) want {
	return func(report.NodeReport) string {
		if sent := s.sent(); sent < least {
			return fmt.Sprintf("the registry has sent %d bytes of %d", sent, least)
		}
		return ""
	}
}

// inFlight wants a request for a blob to be under way.
func inFlight(s *site) want {
	return func(report.NodeReport) string {
		for _, r := range s.Requests() {
			if ofBlob(r) && !r.Done {
				return ""
			}
		}
		return "no blob is being fetched"
	}
}

// throughout looks at the agent's report for a time, in which it must be as wanted.
func (n *node) throughout(d time.Duration, wants ...want) {
	n.t.Helper()
	end := time.Now().Add(d)
	n.until(append(wants, func(report.NodeReport) string {
		if time.Now().Before(end) {
			return "it is too early"
		}
		return ""
	})...)
}
