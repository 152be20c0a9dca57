package stream_test

import (
	"io"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestConn(t *testing.T) {
	p := newPair(t, false)
	go func() {
		conn := p.device.Conn()
		data, _ := io.ReadAll(conn) // until the server half-closes
		_, _ = conn.Write(append([]byte("echo "), data...))
		_ = conn.CloseWrite()
		_ = p.device.Finish(nil)
	}()
	conn := p.server.Conn()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "echo hello" || err != nil {
		t.Errorf("read %q, error %v", got, err)
	}
	_ = conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("Read after Close succeeded")
	}
	if _, err := conn.Write([]byte("late")); err == nil {
		t.Error("Write after Close succeeded")
	}
}

// A connection that the device lost is not one that ended.
func TestConnReset(t *testing.T) {
	p := newPair(t, false)
	go func() {
		_ = p.device.Ready()
		_ = p.device.Finish(&edgeapi.Result{Reason: "InternalError", Message: "connection reset by peer"})
	}()
	if _, err := p.server.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(p.server.Conn()); err == nil {
		t.Error("a reset looks like the end")
	}
}
