package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// LinkConfig describes a Link.
type LinkConfig struct {
	// Upstream is host:port of the server behind it.
	Upstream string
	// BytesPerSecond limits what each connection brings from the server, whatever it carries. Zero: no limit.
	BytesPerSecond int64
}

// Link is a plain TCP proxy in this process: a network path that is slow for each connection by itself. It does not look
// at the bytes, and the kernel moves them from socket to socket (splice(2)). Its methods may be called concurrently.
type Link struct {
	cfg      LinkConfig
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	received atomic.Int64
	opened   atomic.Int64
	open     atomic.Int64
}

// StartLink listens on a free port of 127.0.0.1 and serves until Close.
func StartLink(cfg LinkConfig) (*Link, error) {
	addr, err := freeAddr("")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start the link: %w", err)
	}
	l := &Link{cfg: cfg, listener: listener}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.running.Go(l.accept)
	return l, nil
}

// Host is host:port to connect to.
func (l *Link) Host() string { return l.listener.Addr().String() }

// Received is how many bytes came from the server to clients since the start, headers included. It is exact when no
// connection is open.
func (l *Link) Received() int64 { return l.received.Load() }

// Connections is how many connections clients have opened since the start, and how many of them are open.
func (l *Link) Connections() (all, open int64) { return l.opened.Load(), l.open.Load() }

// Close closes all connections and waits until every goroutine has ended.
func (l *Link) Close() error {
	l.cancel()
	err := l.listener.Close()
	l.running.Wait()
	return err
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Too many open files, for example: others end.
			select {
			case <-time.After(poll):
				continue
			case <-l.ctx.Done():
				return
			}
		}
		l.opened.Add(1)
		l.open.Add(1)
		l.running.Go(func() {
			defer l.open.Add(-1)
			l.serve(client.(*net.TCPConn))
		})
	}
}

// serve moves bytes both ways until both sides have ended or one fails.
func (l *Link) serve(client *net.TCPConn) {
	defer client.Close()
	conn, err := new(net.Dialer).DialContext(l.ctx, "tcp", l.cfg.Upstream)
	if err != nil {
		return // the client sees that its connection is closed
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	// A client that has gone ends the server's side at once, even in the middle of an answer, and Close ends both.
	stop := context.AfterFunc(l.ctx, func() { client.Close(); server.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		if _, err := io.Copy(server, client); err != nil {
			client.Close()
		}
		server.CloseWrite() //nolint:errcheck // the other direction meets the same error
	})
	l.download(client, server)
	client.Close()
	up.Wait()
}

// download brings the server's bytes to the client at the link's rate, and returns when there are no more or the client
// does not take them.
func (l *Link) download(client io.Writer, server io.Reader) {
	piece := int64(1 << 20)
	if l.cfg.BytesPerSecond > 0 {
		piece = pieceAt(l.cfg.BytesPerSecond)
	}
	var pace limiter
	for {
		n, err := io.CopyN(client, server, piece)
		l.received.Add(n)
		if err != nil {
			return
		}
		if err := pace.take(l.ctx, int(n), l.cfg.BytesPerSecond); err != nil {
			return
		}
	}
}
