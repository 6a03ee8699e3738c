package fetch

import "net/http"

const (
	// idlePerHost is how many connections to a host are kept for the next chunk at least. net/http keeps two, and containerd's
	// transport ten over all hosts (core/remotes/docker/registry.go, DefaultHTTPTransport, 2.4.2): every other chunk
	// would begin with a TLS handshake.
	idlePerHost = 64
	// readBuffer holds what is read from a connection together with the head of an answer. Reads into larger buffers
	// do not go through it.
	readBuffer = 64 << 10
)

// tune makes t fit for parallel chunks at once. Each gets a connection of its own: over HTTP/2 they would share one, and
// with it the speed of one front-end of the registry.
func tune(t *http.Transport, parallel int) {
	t.ForceAttemptHTTP2, t.TLSNextProto = false, nil
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	if t.TLSClientConfig != nil { // where HTTP/2 has been offered before, as Clone does
		t.TLSClientConfig = t.TLSClientConfig.Clone()
		t.TLSClientConfig.NextProtos = nil
	}
	t.MaxIdleConnsPerHost = max(parallel, idlePerHost)
	t.MaxIdleConns = 2 * t.MaxIdleConnsPerHost
	t.ReadBufferSize = readBuffer
}

// tuned returns rt, tuned where it can be: a *http.Transport as a tuned copy, since it is not ours. In containerd's
// hosts (core/remotes/docker/config/hosts.go, ConfigureHosts, 2.4.2) it is one, or an httpFallback around one for hosts
// that may or may not speak TLS; nobody can look into that, so Hosts tunes before it is put on. The bounded that Hosts puts
// on is left out: wrap has another.
func tuned(rt http.RoundTripper, parallel int) http.RoundTripper {
	if b, ok := rt.(*bounded); ok {
		rt = b.next
	}
	t, ok := rt.(*http.Transport)
	if !ok {
		return rt
	}
	t = t.Clone()
	tune(t, parallel)
	return t
}
