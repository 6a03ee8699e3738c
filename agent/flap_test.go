package agent

import (
	"strings"
	"testing"
	"time"
)

const (
	flapHost = "docker.io"
	puppet   = `docker.io/hosts.toml says "Puppet"`
)

func TestFlaps(t *testing.T) {
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	type times []time.Duration // since start
	const m, h = time.Minute, time.Hour
	cases := map[string]struct {
		changes times
		look    time.Duration
		want    string // in the message; empty for none
	}{
		"nothing was changed":                         {nil, 0, ""},
		"two changes are no fight":                    {times{0, m}, m, ""},
		"three within ten minutes are":                {times{0, m, 10 * m}, 10 * m, puppet},
		"it is left alone for ten minutes":            {times{0, 1, 2}, 10*m + 1, puppet},
		"and then not any more":                       {times{0, 1, 2}, 10*m + 2, ""},
		"changes spread over more than the window":    {times{0, 6 * m, 12 * m, 18 * m}, 18 * m, ""},
		"the oldest of three does not count":          {times{0, 9 * m, 11 * m}, 11 * m, ""},
		"three of four within the window":             {times{0, 9 * m, 11 * m, 12 * m}, 12 * m, puppet},
		"a second fight is left alone twice as long":  {times{0, 1, 2, 15 * m, 15 * m, 15 * m}, 34 * m, puppet},
		"but not longer than that":                    {times{0, 1, 2, 15 * m, 15 * m, 15 * m}, 35 * m, ""},
		"after a long peace it begins with ten again": {times{0, 1, 2, 3 * h, 3 * h, 3 * h}, 3*h + 10*m, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var f flaps
			for _, at := range c.changes {
				f.saw(flapHost, puppet, true, start.Add(at))
			}
			got := f.message(flapHost, start.Add(c.look))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("message %q, want %q in it", got, c.want)
			}
			if msg := f.message("quay.io", start); msg != "" {
				t.Errorf("another registry is left alone too: %s", msg)
			}
		})
	}
}

func TestTheBackoffOfAFlapIsCapped(t *testing.T) {
	var f flaps
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var waits []time.Duration
	for range 6 {
		for range flapLimit {
			f.saw(flapHost, puppet, true, now)
		}
		waits = append(waits, f.hosts[flapHost].until.Sub(now))
		now = f.hosts[flapHost].until
	}
	for i, want := range []time.Duration{10, 20, 40, 80, 120, 120} {
		if waits[i] != want*time.Minute {
			t.Errorf("fight %d is left alone for %s, want %s", i+1, waits[i], want*time.Minute)
		}
	}
}

func TestTheMessageOfAFlapSaysWhatToDo(t *testing.T) {
	var f flaps
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for range flapLimit {
		f.saw(flapHost, puppet, true, now)
	}
	const want = `somebody else changed it 3 times within 10m0s: docker.io/hosts.toml says "Puppet"; ` +
		`left alone until 12:10:00; stop that program from writing there, or take this registry out of the config`
	if got := f.message(flapHost, now); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestACompetitorKeepsItsName(t *testing.T) {
	var f flaps
	now := time.Now()
	for i, who := range []string{puppet, "nobody", "nobody"} {
		f.saw(flapHost, who, who != "nobody", now.Add(time.Duration(i)*time.Second))
	}
	if got := f.message(flapHost, now.Add(time.Minute)); !strings.Contains(got, puppet) {
		t.Errorf("told is %q, without the name that was seen once", got)
	}
}
