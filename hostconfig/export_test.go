package hostconfig

import "net/http"

// HeaderOf returns the header of a host with its values, for tests only.
func HeaderOf(h ResolvedHost) http.Header { return h.entry.header }

// TOMLString and TOMLKey are the emitter's.
func TOMLString(s string) string { return tomlString(s) }

// TOMLKey is the emitter's.
func TOMLKey(s string) string { return tomlKey(s) }

// HasCA reports whether a host names CAs, be it an empty list of them.
func HasCA(h ResolvedHost) bool { return h.entry.CA != nil }
