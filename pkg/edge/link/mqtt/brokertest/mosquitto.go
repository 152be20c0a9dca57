// Package brokertest runs a real MQTT broker, Mosquitto, for tests. Nothing else may import it.
package brokertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"arhat.dev/aranya/test/framework/eventually"
)

// Mosquitto is a broker that runs on a loopback address.
type Mosquitto struct {
	// Address is host:port, the same after a restart.
	Address string

	t      testing.TB
	config string
	cmd    *exec.Cmd
	log    syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Start runs a broker until the test ends, which is skipped if there is none. The extra lines go into its
// configuration.
func Start(t testing.TB, extra string) *Mosquitto {
	t.Helper()
	if _, err := findMosquitto(); err != nil {
		t.Skip("Mosquitto is not installed:", err)
	}
	m := &Mosquitto{t: t, Address: FreeAddress(t)}
	m.config = filepath.Join(t.TempDir(), "mosquitto.conf")
	host, port, _ := net.SplitHostPort(m.Address)
	text := fmt.Sprintf("listener %s %s\nallow_anonymous true\nset_tcp_nodelay true\nlog_dest stderr\n%s\n", port, host, extra)
	if os.Geteuid() == 0 {
		text += "user root\n" // or it could not read the test's files
	}
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Start()
	t.Cleanup(m.Stop)
	return m
}

// StartWebSocket runs a broker like Start that also takes MQTT over WebSocket, at the address that it returns.
func StartWebSocket(t testing.TB, extra string) (*Mosquitto, string) {
	t.Helper()
	address := FreeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	m := Start(t, fmt.Sprintf("%s\nlistener %s %s\nprotocol websockets", extra, port, host))
	m.WaitFor(address)
	return m, address
}

// Log is what the broker has logged.
func (m *Mosquitto) Log() string { return m.log.String() }

func findMosquitto() (string, error) {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto") // not in everybody's PATH
}

// Start runs the broker again after Stop.
func (m *Mosquitto) Start() {
	m.t.Helper()
	path, err := findMosquitto()
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd = exec.Command(path, "-c", m.config)
	m.cmd.Stderr = &m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.WaitFor(m.Address)
}

// WaitFor waits until the broker listens on an address.
func (m *Mosquitto) WaitFor(address string) {
	m.t.Helper()
	eventually.Succeeds(m.t, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// Stop kills the broker, which says nothing to anybody.
func (m *Mosquitto) Stop() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	if m.t.Failed() {
		m.t.Logf("Mosquitto's log:\n%s", m.log.String())
	}
}

// Pause has the broker do nothing, with all connections open, until Resume.
func (m *Mosquitto) Pause() { m.signal(syscall.SIGSTOP) }

// Resume has it go on.
func (m *Mosquitto) Resume() { m.signal(syscall.SIGCONT) }

func (m *Mosquitto) signal(s os.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

// FreeAddress is a loopback address that nobody listens on.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
