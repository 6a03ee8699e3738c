package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// crowd are nodes that are all alike.
type crowd struct{}

func (crowd) Node(name string) (Node, bool) {
	return Node{Name: name, UID: name, Labels: map[string]string{"pool": "gpu"}, Works: true}, true
}

func (crowd) Down() []string { return nil }

func (crowd) Busy(string) string { return "" }

// BenchmarkAnswer is one report of 5,000 nodes: while all is well, and while every one of them waits for the leave to restart
// containerd, which may be so for hours.
func BenchmarkAnswer(b *testing.B) {
	const nodes = 5000
	for name, said := range map[string]report.NodeReport{"well": healthy(), "all wait for a restart": slot(report.SlotWanted)} {
		b.Run(name, func(b *testing.B) {
			c, err := New(Config{Nodes: crowd{}, Keep: func(context.Context, Rollout) error { return nil }, NewTag: func() {},
				Changed: func(string) {}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			c.SetIntent(Intent{Hash: "h1", Cluster: config.Cluster{MaxUnavailable: 1, MaxConcurrentNodes: 2}})
			answer := func(i int) {
				if _, err := c.Answer(b.Context(), fmt.Sprintf("gpu-%d", i%nodes), said); err != nil {
					b.Fatal(err)
				}
			}
			for i := range nodes {
				answer(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				answer(i)
			}
		})
	}
}
