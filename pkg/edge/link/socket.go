package link

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is about how many bytes the kernel takes beyond those that are under way. All sessions of a device share
// one connection, and what is there already goes first: on a slow link a heartbeat or another session waits for it.
const maxUnsent = 32 << 10

// NetDialer returns what the device's end of any transport makes its TCP connection by.
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
