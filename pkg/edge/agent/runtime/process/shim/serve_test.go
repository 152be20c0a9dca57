package shim

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/test/framework/eventually"
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

// TestAttachToDeafProcess has a client that goes away while the process does not read its input, and another after it.
func TestAttachToDeafProcess(t *testing.T) {
	dir := t.TempDir()
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, fileSocket), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	process, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	s := &shim{
		stdio: &stdio{spec: &Spec{}, stdin: stdin, sinks: map[*sink]struct{}{}},
		ended: make(chan struct{}), attached: make(chan struct{}, maxAttached),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.serve(listener)
	}()
	defer func() {
		_, _ = listener.Close(), stdin.Close()
		<-stopped
		s.connections.Wait()
	}()

	_ = stdin.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := stdin.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the process's input does not fill up: %v", err)
	}
	client := attach(t, dir, bytes.Repeat([]byte("a"), 64<<10+1)) // more than its own pipe takes
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the client is forgotten", func() bool { return len(s.attached) == 0 })
	read := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(process).ReadString('b')
		read <- err
	}()
	client = attach(t, dir, []byte("b"))
	if err := <-read; err != nil {
		t.Errorf("the process does not get the other client's input: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

// attach is a client that sends input.
func attach(t *testing.T, dir string, data []byte) *Attachment {
	t.Helper()
	input, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	attachment, err := Attach(t.Context(), dir, &Request{Stdin: true}, []int{int(input.Fd())}, func() { _ = input.Close() })
	if err != nil {
		t.Fatal(err)
	}
	_ = feed.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := feed.Write(data); err != nil {
		t.Fatal(errors.Join(err, attachment.Close()))
	}
	return attachment
}
