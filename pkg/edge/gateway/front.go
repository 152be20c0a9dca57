package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/websocket"
)

const (
	// firstWord is how long a client may take to show what it wants: a ClientHello, or an HTTP request. An
	// answer to the latter may take as long.
	firstWord = 10 * time.Second
	// maxUnsorted is how many connections may be waiting for that. More wait to be accepted.
	maxUnsorted = 4096
	// maxWeb is how many connections may be there by HTTP that are not WebSockets (yet). More are closed.
	maxWeb = 4096
	// maxHTTPHeaders limits the headers of an HTTP request, in bytes.
	maxHTTPHeaders = 16 << 10

	protocolGRPC = "h2"
	protocolHTTP = "http/1.1"
	tlsHandshake = 0x16 // the first byte of a TLS connection
)

// front sorts the connections of the gateway's own listener: the device link itself, which is TLS with
// the protocol h2; HTTPS, with any other protocol; and plain HTTP, of an ingress that has terminated
// HTTPS. By HTTP come WebSockets, with the device link and so TLS inside.
type front struct {
	listener   net.Listener
	devices    *handOver
	web        *handOver
	webSockets *websocket.Listener
	http       *http.Server
	https      *tls.Config
	webCount   atomic.Int64
	firstWord  time.Duration
	unsorted   chan struct{}
	sorting    sync.WaitGroup
	ctx        context.Context
	end        context.CancelFunc
	logger     klog.Logger
}

func newFront(l net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), firstWord time.Duration, logger klog.Logger) *front {
	f := &front{
		listener: l, devices: newHandOver(l.Addr()), web: newHandOver(l.Addr()), webSockets: websocket.NewListener(l.Addr()),
		https:    &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{protocolHTTP}, GetCertificate: certificate},
		unsorted: make(chan struct{}, maxUnsorted), firstWord: firstWord, logger: logger,
	}
	f.ctx, f.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.Handle(websocket.Path, f.webSockets)
	f.http = &http.Server{
		Handler: mux, MaxHeaderBytes: maxHTTPHeaders,
		// All of them end when a WebSocket begins.
		ReadTimeout: firstWord, WriteTimeout: firstWord, IdleTimeout: firstWord,
		ConnState: f.countWeb, ErrorLog: log.New(klogWriter{logger}, "", 0),
	}
	return f
}

// run sorts connections until the listener is closed, which is the error.
func (f *front) run() error {
	var serving sync.WaitGroup
	serving.Go(func() { _ = f.http.Serve(f.web) })
	defer serving.Wait()
	defer func() { _ = f.http.Close() }()
	defer f.sorting.Wait()
	for {
		c, err := f.listener.Accept()
		if err != nil {
			if isTemporary(err) {
				time.Sleep(50 * time.Millisecond) // out of file descriptors, for example
				continue
			}
			return err
		}
		f.unsorted <- struct{}{}
		f.sorting.Go(func() {
			defer func() { <-f.unsorted }()
			f.sort(c)
		})
	}
}

// countWeb keeps the connections by HTTP within their limit.
func (f *front) countWeb(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if f.webCount.Add(1) > maxWeb {
			_ = c.Close()
		}
	case http.StateHijacked, http.StateClosed:
		f.webCount.Add(-1)
	}
}

func isTemporary(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED)
}

// close ends run and all that has not been handed over.
func (f *front) close() {
	f.end()
	_ = f.listener.Close()
	_ = f.devices.Close()
	_ = f.web.Close()
	_ = f.webSockets.Close()
}

func (f *front) sort(c net.Conn) {
	if counted, ok := c.(*link.Conn); ok {
		c = counted.Conn // to be counted anew, from the first byte
	}
	stop := context.AfterFunc(f.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(f.firstWord))
	first := make([]byte, 1)
	if _, err := c.Read(first); err != nil {
		_ = c.Close()
		return
	}
	p := &peeked{Conn: c, ahead: first}
	switch {
	case first[0] >= 'A' && first[0] <= 'Z':
		_ = c.SetReadDeadline(time.Time{})
		f.web.offer(p)
	case first[0] == tlsHandshake:
		hello, err := p.clientHello()
		if err != nil {
			refused.WithLabelValues(refusedHandshake).Inc()
			f.logger.V(4).Info("A TLS handshake failed", "remote", remoteAddress(c), "reason", err.Error())
			_ = c.Close()
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		if slices.Contains(hello.SupportedProtos, protocolGRPC) {
			f.devices.offer(link.NewConn(p, link.MethodGRPC))
		} else {
			f.web.offer(tls.Server(p, f.https))
		}
	default:
		refused.WithLabelValues(refusedHandshake).Inc()
		_ = c.Close()
	}
}

// peeked is a connection of which something was read ahead.
type peeked struct {
	net.Conn
	ahead []byte
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if len(p.ahead) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.ahead)
	if p.ahead = p.ahead[n:]; len(p.ahead) == 0 {
		p.ahead = nil // not kept for the life of the link
	}
	return n, nil
}

// NetConn returns what is below, as that of crypto/tls does.
func (p *peeked) NetConn() net.Conn { return p.Conn }

var errPeeked = errors.New("the ClientHello was read")

// clientHello reads the ClientHello ahead. How long it may be is limited by crypto/tls.
func (p *peeked) clientHello() (*tls.ClientHelloInfo, error) {
	var hello *tls.ClientHelloInfo
	var copied bytes.Buffer
	err := tls.Server(&recorded{Conn: p, copied: &copied}, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, errPeeked
		},
	}).Handshake()
	p.ahead = copied.Bytes()
	if hello == nil {
		return nil, err
	}
	return hello, nil
}

// recorded keeps what is read and writes nothing.
type recorded struct {
	net.Conn
	copied *bytes.Buffer
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.copied.Write(b[:n])
	return n, err
}

func (r *recorded) Write(b []byte) (int, error)      { return len(b), nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }
func (r *recorded) Close() error                     { return nil }

// handOver is a net.Listener for connections that another one has accepted.
type handOver struct {
	addr  net.Addr
	conns chan net.Conn
	ctx   context.Context
	end   context.CancelFunc
}

func newHandOver(addr net.Addr) *handOver {
	h := &handOver{addr: addr, conns: make(chan net.Conn)}
	h.ctx, h.end = context.WithCancel(context.Background())
	return h
}

func (h *handOver) offer(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.ctx.Done():
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (h *handOver) Addr() net.Addr { return h.addr }

// Close implements net.Listener.
func (h *handOver) Close() error {
	h.end()
	return nil
}

// klogWriter is for what net/http has to say of bad clients.
type klogWriter struct{ logger klog.Logger }

func (w klogWriter) Write(p []byte) (int, error) {
	w.logger.V(4).Info("HTTP: " + string(bytes.TrimSpace(p)))
	return len(p), nil
}
