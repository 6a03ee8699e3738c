package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxEnviron bounds what is read of a process's environment, in bytes.
const maxEnviron = 1 << 20

// Proxy is the HTTP proxy setting of one process, passwords removed.
type Proxy struct {
	HTTP, HTTPS, No string
}

// peerPID is the process that listens on the unix socket at address, or 0.
func peerPID(ctx context.Context, address string) int {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}

// processProxy reads the proxy setting of containerd's environment. The pid may belong to another PID namespace, so
// the process must be called containerd before it is believed.
func processProxy(pid int) *Proxy {
	if pid <= 0 {
		return nil
	}
	dir := filepath.Join("/proc", fmt.Sprint(pid))
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil || !strings.HasPrefix(string(comm), "containerd") {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, "environ"))
	if err != nil {
		return nil
	}
	defer f.Close()
	environ, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	env := make(map[string]string)
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		k, v, _ := strings.Cut(string(kv), "=")
		env[k] = v
	}
	p := ProxyFrom(func(key string) string { return env[key] })
	return &p
}

// ProxyFrom reads the proxy variables as net/http does, the upper-case spelling first, and removes passwords.
func ProxyFrom(getenv func(string) string) Proxy {
	get := func(key string) string {
		if v := getenv(key); v != "" {
			return v
		}
		return getenv(strings.ToLower(key))
	}
	return Proxy{
		HTTP:  withoutPassword(get("HTTP_PROXY")),
		HTTPS: withoutPassword(get("HTTPS_PROXY")),
		No:    get("NO_PROXY"),
	}
}

// withoutPassword removes user and password from a proxy address, which may lack a scheme.
func withoutPassword(proxy string) string {
	if u, err := url.Parse(proxy); err == nil && u.User != nil {
		u.User = url.User("redacted")
		return u.String()
	}
	if at := strings.LastIndex(proxy, "@"); at >= 0 {
		return "redacted" + proxy[at:]
	}
	return proxy
}
