package link

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxUnsent is about how many bytes the kernel takes beyond those that are under way. All sessions of a device share
// one connection, and what is there already goes first: on a slow link a heartbeat or another session waits for it.
const maxUnsent = 32 << 10

// NetDialer returns what whoever dials out makes the TCP connection below any transport by: a device, and the client of a
// broker.
func NetDialer() *net.Dialer {
	return &net.Dialer{
		KeepAlive: -1, // see noKeepAlive
		Control:   func(_, _ string, c syscall.RawConn) error { limitUnsent(c); return nil },
	}
}

// limitUnsent does nothing where the kernel does not know how: the link works all the same.
func limitUnsent(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}

// Taker is a connection of a transport that has no socket of its own.
type Taker interface {
	// LastTaken is when the other end last said that it has read something.
	LastTaken() time.Time
}

// LastTaken is when the network last took bytes, as far as that can be told. What was written before may keep a slow
// link busy for long until there is room for the next write; the other end of a TCP connection acknowledges it bit by bit.
func (c *Conn) LastTaken() time.Time {
	last := c.LastWrite()
	if t, ok := c.Conn.(Taker); ok {
		if taken := t.LastTaken(); taken.After(last) {
			last = taken
		}
		return last
	}
	raw := rawConn(c.Conn)
	if raw == nil {
		return last
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil { // not TCP
			return
		}
		if acked := time.Now().Add(-time.Duration(info.Last_ack_recv) * time.Millisecond); acked.After(last) {
			last = acked
		}
	})
	return last
}

// rawConn is the socket below layers that have NetConn, as TLS does; nil if there is none.
func rawConn(c net.Conn) syscall.RawConn {
	for {
		switch layer := c.(type) {
		case syscall.Conn:
			if raw, err := layer.SyscallConn(); err == nil {
				return raw
			}
			return nil
		case interface{ NetConn() net.Conn }:
			c = layer.NetConn()
		default:
			return nil
		}
	}
}
