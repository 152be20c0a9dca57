package fleet

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
)

type pipeDialer struct{ uplink.Chooser }

func (pipeDialer) Dial(context.Context, string) (*link.Conn, error) {
	a, b := net.Pipe()
	go func() { // the other end echoes
		defer b.Close()
		buf := make([]byte, 16)
		for {
			n, err := b.Read(buf)
			if err != nil {
				return
			}
			if _, err := b.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	return link.NewConn(a, link.MethodGRPC), nil
}

// What pods have mounted goes with the devices.
func TestCloseUnmounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := filepath.Join(t.TempDir(), "fleet")
	f, err := New(Options{Dir: dir, Configure: func(string) *config.Configuration { return &config.Configuration{} }})
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(f.StateDir("d"), "pods", "p", "token")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=4096"); err != nil {
		t.Skipf("this machine does not let us mount: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		_ = unix.Unmount(volume, unix.MNT_DETACH)
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestGate(t *testing.T) {
	g := &gate{}
	d := &gated{Chooser: pipeDialer{}, gate: g}
	conn, err := d.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if sent, received := g.bytes(); g.len() != 1 || sent != 5 || received != 5 {
		t.Errorf("%d links, %d bytes sent, %d received", g.len(), sent, received)
	}
	_ = conn.Close()
	if sent, received := g.bytes(); g.len() != 0 || sent != 5 || received != 5 {
		t.Errorf("after the end: %d links, %d bytes sent, %d received", g.len(), sent, received)
	}
	again, err := d.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	_ = again.Close() // counts once
	if g.len() != 0 {
		t.Error("a link that was closed counts")
	}
}

// A device of several links keeps to the one that works, and tries better ones through the gate.
func TestGateOfSeveralLinks(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	first, second := "127.0.0.1:1", listener.Addr().String()
	f, err := New(Options{Dir: filepath.Join(t.TempDir(), "fleet"), Configure: func(string) *config.Configuration {
		c := config.New()
		c.Server, c.Links = first, []string{second}
		return c
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, dialer, err := f.configure("d", identity.Device{Namespace: "edge", Name: "d"})
	if err != nil {
		t.Fatal(err)
	}
	d, ok := dialer.(uplink.Chooser)
	if !ok {
		t.Fatal("the device cannot choose a link")
	}
	for _, want := range []string{first, second, second} {
		if conn, err := d.Dial(t.Context(), ""); err == nil {
			d.Proven()
			_ = conn.Close()
		}
		if got := d.Dialled(); got != want {
			t.Errorf("dialled %s, want %s", got, want)
		}
	}
	conn, err := d.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Break(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || f.Links() != 1 {
		t.Errorf("after all links were cut: %v, %d links", err, f.Links())
	}
	if _ = conn.Close(); f.Links() != 0 {
		t.Error("a link that was closed counts")
	}
	better := d.Better()
	if better == nil {
		t.Fatal("no link is better than the second one")
	}
	d.Prefer(better)
	if _, err := d.Dial(t.Context(), ""); err == nil || d.Dialled() != first {
		t.Errorf("dialled %s, %v", d.Dialled(), err)
	}
	if d.Better() != nil {
		t.Error("there is a better link than the first one")
	}
}
