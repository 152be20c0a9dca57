package gateway_test

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/identity"
)

func TestJoin(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	dir := t.TempDir()
	join := func(token string) error {
		return uplink.Join(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: dir})
	}
	if err := join(""); !errors.Is(err, uplink.ErrNotEnrolled) {
		t.Errorf("Join without token: %v", err)
	}
	token := w.token(t, ed, time.Hour)
	if err := join(token); err != nil {
		t.Fatal(err)
	}
	first := certificateIn(t, dir)
	if err := join(""); err != nil {
		t.Errorf("Join of an enrolled device: %v", err)
	}
	if err := join(token); err != nil {
		t.Errorf("Join with the token that was used: %v", err)
	}
	if !certificateIn(t, dir).Leaf.Equal(first.Leaf) {
		t.Error("the identity was replaced")
	}
	if err := join(w.token(t, ed, time.Hour)); err != nil {
		t.Errorf("Join with another token: %v", err)
	}
	if next := certificateIn(t, dir); next.Leaf.Equal(first.Leaf) || identity.PublicKeyHash(next.Leaf) == identity.PublicKeyHash(first.Leaf) {
		t.Error("enrolling anew kept the key")
	}
	for _, name := range []string{"key.pem", "cert.pem", "ca.pem"} {
		if info, err := os.Stat(filepath.Join(dir, "identity", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "identity", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(ca); block == nil || string(block.Bytes) != string(w.config.Authority.Certificate().Raw) {
		t.Error("ca.pem is not the device CA")
	}
}

// A server that is not there yet is tried again; one that says no is not.
func TestJoinWaitsForServer(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	w.stop()
	dialer := &countingDialer{failed: make(chan struct{}, 100)}
	joined := make(chan error, 1)
	go func() {
		joined <- uplink.Join(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: t.TempDir(), Dialer: dialer})
	}()
	receive(t, dialer.failed, "the first attempt")
	w.start(t)
	if err := receive(t, joined, "Join"); err != nil {
		t.Error(err)
	}
}

// The token names the CA: a server that cannot show it never sees the token.
func TestJoinWrongServer(t *testing.T) {
	w, imposter := newWorld(t), newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	err := uplink.Join(t.Context(), uplink.JoinOptions{Server: imposter.address, Token: token, StateDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "not the one that the token is for") {
		t.Errorf("Join at another server: %v", err)
	}
	if err := uplink.Join(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: t.TempDir()}); err != nil {
		t.Errorf("the token was used up: %v", err)
	}
}
