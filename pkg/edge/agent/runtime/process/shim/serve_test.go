package shim

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestServeAfterFailedAccept has a shim that cannot accept a connection for a while.
func TestServeAfterFailedAccept(t *testing.T) {
	dir := t.TempDir()
	address := filepath.Join(dir, fileSocket)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: address, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	said, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	former := os.Stderr
	os.Stderr = stderr
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		(&shim{processes: &processes{}}).serve(listener)
	}()
	defer func() {
		_, _, _, _ = listener.Close(), unix.Close(client), stderr.Close(), said.Close()
		<-stopped
		os.Stderr = former
	}()

	restore := noDescriptors(t)
	err = unix.Connect(client, &unix.SockaddrUnix{Name: address})
	if err == nil {
		_, err = bufio.NewReader(said).ReadString('\n') // it could not be accepted
	}
	restore()
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- Signal(t.Context(), dir, unix.SIGTERM) }()
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-stopped:
		t.Error("nobody is served any more")
	}
}
