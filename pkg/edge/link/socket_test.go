package link

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connection whose other end does not read takes little more than is under way, whichever end it is: what is
// in the kernel goes before all other sessions.
func TestUnsent(t *testing.T) {
	// What a segment that was begun holds may come on top.
	const most = maxUnsent + 64<<10
	smallBuffers := net.ListenConfig{Control: smallReceiveBuffer}
	inner, err := smallBuffers.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(inner, MethodGRPC)
	defer l.Close()
	for name, connect := range map[string]func() (writes, stalls net.Conn, err error){
		"device": func() (net.Conn, net.Conn, error) {
			device, err := TCP{}.Dial(t.Context(), l.Addr().String())
			if err != nil {
				return nil, nil, err
			}
			server, err := l.Accept()
			return device, server, err
		},
		"gateway": func() (net.Conn, net.Conn, error) {
			d := net.Dialer{Control: smallReceiveBuffer}
			device, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
			if err != nil {
				return nil, nil, err
			}
			server, err := l.Accept()
			return server, device, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			writes, stalls, err := connect()
			if err != nil {
				t.Fatal(err)
			}
			defer stalls.Close()
			defer writes.Close()
			if unsent := fill(t, writes); unsent > most {
				t.Errorf("%d bytes are in the kernel and not under way, expected %d at most", unsent, most)
			}
		})
	}
}

func smallReceiveBuffer(_, _ string, c syscall.RawConn) (err error) {
	failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10) })
	return errors.Join(failed, err)
}

// fill writes until the kernel takes no more, and returns how much of it is not under way.
func fill(t *testing.T, c net.Conn) (unsent uint32) {
	t.Helper()
	raw, err := c.(*Conn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 16<<10)
	failed := raw.Write(func(fd uintptr) bool {
		for err == nil {
			_, err = unix.Write(int(fd), block)
		}
		return true
	})
	if failed != nil || !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("writing: %v, %v", failed, err)
	}
	var info *unix.TCPInfo
	failed = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return info.Notsent_bytes
}

// taker is a connection of a transport that knows itself what was taken.
type taker struct {
	net.Conn
	taken time.Time
}

func (t taker) LastTaken() time.Time { return t.taken }

// What the other end acknowledges counts, also after the last write has returned, below whatever layers.
func TestLastTaken(t *testing.T) {
	l, err := ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	device, err := TCP{}.Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for name, tt := range map[string]struct {
		network net.Conn
		later   bool
	}{
		"tcp":       {device.Conn, true},
		"tls":       {tls.Client(device.Conn, &tls.Config{}), true},
		"no socket": {&parkable{}, false},
		"taker":     {taker{taken: time.Now()}, true},
		"idle":      {taker{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewConn(tt.network, MethodGRPC)
			c.lastWrite.Add(-int64(time.Hour))
			if taken := c.LastTaken(); taken.After(c.LastWrite()) != tt.later {
				t.Errorf("last written at %s, taken at %s", c.LastWrite(), taken)
			}
		})
	}
}
