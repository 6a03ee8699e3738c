package rig

import (
	"crypto/tls"
	"fmt"
)

// Stop refuses connections until Start, and closes those that there are, with a request on them or not. The record, the
// script and the address stay.
func (p *Proxy) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	for conn := range p.conns {
		_ = conn.Close() // the client may have closed it already
	}
	return err
}

// Start listens again after Stop. It does nothing if the proxy listens.
func (p *Proxy) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	listener, err := p.network.listen(p.addr)
	if err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	if p.tls != nil {
		listener = tls.NewListener(listener, p.tls)
	}
	p.listener = listener
	p.running.Go(func() { _ = p.server.Serve(listener) }) // it ends with Stop or Close
	return nil
}
