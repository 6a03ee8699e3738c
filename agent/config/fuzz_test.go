package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecode checks that no input makes Decode panic, that faults have lines and fit on one, and that what is valid
// means the same when it is written out and read again.
func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, seed := range seeds {
		f.Add(read(f, seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Decode("fuzz.yaml", data)
		if err != nil {
			if cfg != nil {
				t.Error("there is a config beside the faults")
			}
			checkFaults(t, "fuzz.yaml", data, err)
			return
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("Decode accepts what Validate refuses: %v", err)
		}
		for _, pair := range cfg.Certs.KeyPairs {
			if pair.Key != "" {
				return // an inline key is hidden from the encoder, so there is no round trip
			}
		}
		roundTrip(t, cfg)
	})
}

// FuzzSyntaxLine checks that the line of a syntax fault is the first after a part that can be read.
func FuzzSyntaxLine(f *testing.F) {
	f.Add([]byte("a: b\n c\n- d"))
	f.Add([]byte("a: [\nb\n"))
	f.Add([]byte("a: b\r\tc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 || isYAML(data) {
			return
		}
		ends, line := lineEnds(data), syntaxLine(data)
		if line < 1 || line > len(ends) {
			t.Fatalf("line %d of %d", line, len(ends))
		}
		if line > 1 && !isYAML(data[:ends[line-2]]) {
			t.Errorf("what is before line %d cannot be read either", line)
		}
		if isYAML(data[:ends[line-1]]) {
			t.Errorf("what is up to line %d can be read", line)
		}
	})
}

func TestNearestFindsSlips(t *testing.T) {
	names := []string{"host", "mirrors", "upstream", "tls", "credentials", "adopt", "usernameFile"}
	got := map[string]string{}
	for word := range strings.FieldsSeq("hots mirror upstraem TLS creds x user pwd Host credential username") {
		got[word] = nearest(word, names)
	}
	want := map[string]string{
		"hots": "host", "mirror": "mirrors", "upstraem": "upstream", "TLS": "tls", "creds": "", "x": "",
		"user": "usernameFile", "pwd": "", "Host": "host", "credential": "credentials", "username": "usernameFile",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suggestions differ (-want +got):\n%s", diff)
	}
}
