package agent

import "testing"

// The texts are those of prefetch/store.
func TestReasonsOfAWayAreAFewWords(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"the configuration says so":          "config",
		"untested version: containerd 3.0.0": "version",
		"hotplate runs in a user namespace":  "userns",
		"the snapshotter is native, not overlayfs":                                                        "snapshotter",
		"snapshots are in /a/b/c, not below /d":                                                           "snapshotter",
		"CRI has its images in /a, not in /b":                                                             "snapshotter",
		"containerd's content sharing policy is \"isolated\", not \"shared\"":                             "content",
		"containerd has another content store, stargz-7":                                                  "content",
		"files cannot be linked into containerd's content store: link /a/probe-3 /b: cross-device link":   "content",
		"containerd's content root cannot be written from here: open /x/probe-1: read-only file system":   "access",
		"hotplate may not give files away: chown /a/probe-77: operation not permitted":                    "access",
		"containerd's plugin io.containerd.content.v1.content does not run: no such file /a/b/2026-01-02": "plugin",
		"something new with the number 123":                                                               "other",
	} {
		if got := wayReason(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
