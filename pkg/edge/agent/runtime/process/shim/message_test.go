package shim

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReceive(t *testing.T) {
	from, to := pair(t)
	for name, size := range map[string]int{"small": 1, "large": maxMessage - 100} {
		want := []string{strings.Repeat("x", size)}
		if err := send(from, &Request{Args: want}, 0, 1); err != nil {
			t.Fatal(err)
		}
		got := &Request{}
		fds, err := receive(to, got)
		closeAll(fds)
		if err != nil || len(fds) != 2 || !slices.Equal(got.Args, want) {
			t.Errorf("%s: got %d bytes, %v, %v", name, len(got.Args), fds, err)
		}
	}
	if _, err := from.Write(make([]byte, maxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(to, &Request{}); err == nil || !strings.Contains(err.Error(), "more than 131072 bytes") {
		t.Errorf("a message that is too large gave %v", err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(to, &Request{}); err == nil {
		t.Error("there was a message after the last one")
	}
}

// An agent waits for a message of each container that it runs, mostly a small one.
func TestReceiveTakesLittle(t *testing.T) {
	from, to := pair(t)
	const messages = 100
	before, after := runtime.MemStats{}, runtime.MemStats{}
	runtime.ReadMemStats(&before)
	for range messages {
		if err := send(from, &Request{Op: opWait}); err != nil {
			t.Fatal(err)
		}
		if _, err := receive(to, &Request{}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) / messages; took > maxMessage/8 {
		t.Errorf("a small message took %d bytes of memory", took)
	}
}

// pair makes the two ends of a connection.
func pair(t *testing.T) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}
