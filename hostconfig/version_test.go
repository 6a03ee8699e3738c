package hostconfig_test

import (
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]hostconfig.Version{
		"":                {},
		"v2.4.2":          {Major: 2, Minor: 4, Patch: 2},
		"2.4.2":           {Major: 2, Minor: 4, Patch: 2},
		"2.4.2+unknown":   {Major: 2, Minor: 4, Patch: 2},
		"1.6.20~ds1":      {Major: 1, Minor: 6, Patch: 20},
		"1.7.28-k3s1":     {Major: 1, Minor: 7, Patch: 28},
		"v2.4.0-rc.1":     {Major: 2, Minor: 4, Patch: 0},
		"2.4":             {Major: 2, Minor: 4, Patch: hostconfig.LatestPatch},
		"v1.7":            {Major: 1, Minor: 7, Patch: hostconfig.LatestPatch},
		"1.6.20~ds1-1+b1": {Major: 1, Minor: 6, Patch: 20},
	} {
		got, err := hostconfig.ParseVersion(in)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"2", "v", "two.four", "2.4.2.1", "2..4", "-2.4", "0.1.2", "2.4.99999999", "unknown"} {
		if got, err := hostconfig.ParseVersion(in); err == nil {
			t.Errorf("%q is read as %+v", in, got)
		}
	}
}

func TestVersionsCompare(t *testing.T) {
	order := []string{
		"", "1.6.20", "1.6", "1.7.31", "1.7.32", "1.7", "2.0.6", "2.0.7", "2.1.0", "2.4.2", "2.4", "3.0.0",
	}
	for i, a := range order {
		for j, b := range order {
			want := map[bool]int{i < j: -1, i > j: 1}[true]
			if got := version(t, a).Compare(version(t, b)); got != want {
				t.Errorf("%q and %q compare as %d", a, b, got)
			}
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"v2.4.2", "2.4", "1.6.20~ds1", "", "2.4.2+unknown", "v"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := hostconfig.ParseVersion(s)
		if err != nil {
			if !v.IsZero() {
				t.Fatalf("%q: %+v beside an error", s, v)
			}
			return
		}
		if v.IsZero() {
			if s != "" {
				t.Fatalf("%q is read as unknown", s)
			}
			return
		}
		again, err := hostconfig.ParseVersion(v.String())
		if err != nil || again != v {
			t.Fatalf("%q is %+v, written as %s and read as %+v, %v", s, v, v, again, err)
		}
		if !strings.HasPrefix(strings.TrimLeft(s, "v0"), strings.SplitN(v.String(), ".", 2)[0]) {
			t.Fatalf("%q is read as %s", s, v)
		}
	})
}
