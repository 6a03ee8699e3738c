package fetch

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBandwidthIsBoundedOverAllHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := map[string]*link{"a.example.com": {speed: always(40 * mb)}, "b.example.com": {speed: always(40 * mb)}}
		// So tight that every read of a caller takes longer than the stall timeout.
		c := onLinks(t, Config{MaxBandwidth: testSize, StallTimeout: 50 * time.Millisecond}, links)
		start := time.Now()
		var all sync.WaitGroup
		for name := range links {
			src := sourceOf(t, c, name)
			for k := range 10 {
				all.Go(func() {
					if err := fetchPart(t.Context(), src, part(k), make([]byte, testSize)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		// Less what may be read at once before the limit is felt.
		if took, want := time.Since(start), 20*time.Second; took < want-2*paceEvery || took > want+want/20 {
			t.Errorf("20 chunks took %s at one each second", took)
		}
		for name, s := range c.Stats() {
			if s.Stalls != 0 || s.Rescues != 0 || len(s.Retries) != 0 || s.Bytes != 10*testSize {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}

func TestBandwidthLetsGoWhenTheRequestIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onLinks(t, Config{MaxBandwidth: 1}, map[string]*link{"a.example.com": {speed: always(40 * mb)}})
		stop := load(t, sourceOf(t, c, "a.example.com"), 4)
		time.Sleep(time.Second)
		start := time.Now()
		if n := stop(); n != 0 || time.Since(start) != 0 {
			t.Errorf("%d chunks, ended after %s", n, time.Since(start))
		}
	})
}
