package fleet

import (
	"net"
	"net/netip"
	"testing"
)

func TestShutdown(t *testing.T) {
	dial := func() (near, far net.Conn) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if far, err = listener.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = near.Close()
			_ = far.Close()
		})
		return near, far
	}
	cut, cutFar := dial()
	other, otherFar := dial()
	peers := map[netip.AddrPort]bool{}
	if err := resolve(t.Context(), cut.RemoteAddr().String(), peers); err != nil {
		t.Fatal(err)
	}
	if err := shutdown(peers); err != nil {
		t.Fatal(err)
	}
	if _, err := cut.Write([]byte("x")); err == nil {
		t.Error("a connection that was cut takes bytes")
	}
	if n, err := cutFar.Read(make([]byte, 1)); err == nil {
		t.Errorf("the other end of one that was cut reads %d bytes", n)
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if _, err := otherFar.Read(make([]byte, 1)); err != nil {
		t.Errorf("the other end of another connection: %v", err)
	}
}
