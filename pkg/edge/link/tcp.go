package link

import (
	"context"
	"net"
	"time"
)

// noKeepAlive: the link has a heartbeat of its own, whose pace the user chooses. TCP's would add bytes
// on metered links without telling more.
var noKeepAlive = net.KeepAliveConfig{Enable: false}

// dialTime limits one attempt to connect.
const dialTime = 20 * time.Second

// TCP dials a gateway directly.
type TCP struct{}

// Dial implements Dialer. The address is host:port; the name is looked up anew every time.
func (TCP) Dial(ctx context.Context, address string) (*Conn, error) {
	d := NetDialer()
	d.Timeout = dialTime
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	return NewConn(c, MethodGRPC).WithHost(host), nil
}

// ListenTCP opens a listener for devices.
func ListenTCP(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, KeepAliveConfig: noKeepAlive}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return NewListener(l, MethodGRPC), nil
}

type listener struct {
	net.Listener
	method string
}

// NewListener makes a listener return *Conn. A listener that does so already is returned as it is.
func NewListener(l net.Listener, method string) net.Listener {
	if _, ok := l.(*listener); ok {
		return l
	}
	return &listener{Listener: l, method: method}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(noKeepAlive) // of a listener that was not opened by ListenTCP
		if raw, err := tcp.SyscallConn(); err == nil {
			limitUnsent(raw)
		}
	}
	return NewConn(c, l.method), nil
}
