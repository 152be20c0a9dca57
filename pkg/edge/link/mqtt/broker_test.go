package mqtt

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
	"arhat.dev/aranya/test/framework/eventually"
)

// echo checks that bytes go both ways.
func echo(t testing.TB, device, server net.Conn) {
	t.Helper()
	for _, dir := range []struct{ from, to net.Conn }{{device, server}, {server, device}} {
		if _, err := dir.from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(dir.to, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// TestSecuredBroker: TLS, a client certificate, passwords, and an ACL that confines each device.
func TestSecuredBroker(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := selfSigned(t)
	certPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	key, _ := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	passwords := filepath.Join(dir, "passwords")
	for i, user := range []string{"aranya", "a", "b"} {
		args := []string{"-b", passwords, user, "secret-" + user}
		if i == 0 {
			args = append([]string{"-c"}, args...)
		}
		if out, err := exec.Command("mosquitto_passwd", args...).CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			t.Skip("Mosquitto is not installed:", err)
		} else if err != nil {
			t.Fatalf("mosquitto_passwd: %v %s", err, out)
		}
	}
	acl := "user aranya\ntopic read NS/+/+/up\ntopic write NS/+/+/down\ntopic write NS/status\n" +
		"pattern write NS/default/%u/up\npattern read NS/default/%u/down\npattern read NS/status\n"
	m := brokertest.Start(t, strings.Join([]string{
		"cafile " + write("ca.crt", certPEM), "certfile " + write("tls.crt", certPEM), "keyfile " + write("tls.key", keyPEM),
		"require_certificate true", "password_file " + passwords,
		"acl_file " + write("acl", strings.ReplaceAll(acl, "NS", testNamespace)),
	}, "\n"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(certPEM))
	config := func(user string) BrokerConfig {
		return BrokerConfig{
			Server: m.Address, TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			Username: user, Password: "secret-" + user,
		}
	}
	_, l := serve(t, config("aranya"), ListenOptions{})
	d := Dialer{Broker: config("a"), MessageNamespace: testNamespace, Namespace: "default", Name: "a"}
	device, server := connectPair(t, d, l)
	echo(t, device, server)

	wrong := d
	wrong.Broker.Password = "wrong"
	if _, err := wrong.Dial(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "not authorized") && !strings.Contains(err.Error(), "user name or password") {
		t.Errorf("a wrong password: %v", err)
	}
	other := d
	other.Name = "b" // with the credentials of a
	if _, err := withTimeout(t, other, 2*time.Second); err == nil || !strings.Contains(err.Error(), "ACL") {
		t.Errorf("another's topics: %v", err)
	}
	anonymous := d
	anonymous.Broker.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if _, err := anonymous.Dial(t.Context(), ""); err == nil {
		t.Error("no client certificate was needed")
	}
	untrusting := d
	untrusting.Broker.TLS = nil
	if _, err := untrusting.Dial(t.Context(), ""); err == nil {
		t.Error("no TLS was needed")
	}
	untrusting.Broker.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if _, err := untrusting.Dial(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a broker of an unknown CA: %v", err)
	}
}

// TestForeignMessages: what others publish on the topics disturbs nobody.
func TestForeignMessages(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	deviceEnd, server := connectPair(t, dialer(m.Address, "a"), l)
	o := paho.NewClientOptions().AddBroker("tcp://" + m.Address).SetClientID("intruder")
	intruder := paho.NewClient(o)
	if token := intruder.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer intruder.Disconnect(250)
	id := deviceEnd.Conn.(*device).id
	up, down := upTopic(testNamespace, "default", "a"), downTopic(testNamespace, "default", "a")
	send := func(topic string, retained bool, payload []byte) {
		t.Helper()
		if token := intruder.Publish(topic, 1, retained, payload); token.Wait() && token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	data := func(id connID, seq uint64) []byte {
		return (&frame{kind: frameData, id: id, seq: seq, data: []byte("evil")}).appendTo(nil)
	}
	for _, topic := range []string{up, down} {
		send(topic, false, []byte("no frame"))
		send(topic, false, nil)
		send(topic, false, bytes.Repeat([]byte{frameVersion}, 8<<20))
		send(topic, false, data(connID{id.device + 1, id.server}, 1))
		send(topic, false, data(connID{id.device, id.server ^ 1<<40}, 1))
	}
	send(up, true, data(id, 1)) // delivered as an ordinary message: retained only for who subscribes later
	echoed := false
	for range 3 {
		if _, err := deviceEnd.Write([]byte("hello")); err != nil {
			break
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(server, got); err != nil {
			break
		}
		if string(got) == "evil" {
			echoed = true // who knows the ID and may publish can do that: TLS inside notices
			break
		}
	}
	if !echoed {
		t.Error("the forged frame with the right ID and number did not come; the test does not test what it should")
	}
	s := b.stats()
	if s.Malformed != 2 || s.Oversized != 1 || s.Foreign != 2 {
		t.Errorf("the server counted %+v", s)
	}
	eventually.Succeeds(t, func() error {
		s := deviceEnd.Conn.(*device).way.client.counters.stats()
		if s.Malformed != 2 || s.Oversized != 1 || s.Foreign != 3 { // one is the server's answer to a foreign frame
			return fmt.Errorf("the device counted %+v", s)
		}
		return nil
	})
	// Other devices, and later connections of the same one, are not affected.
	again, server := connectPair(t, dialer(m.Address, "a"), l)
	echo(t, again, server)
}

// TestStalledReader: a reader that stalls holds a bounded amount of memory and nobody else.
func TestStalledReader(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	const devices = 10
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var writers sync.WaitGroup
	var ends []*link.Conn
	for i := range devices {
		device, server := connectPair(t, dialer(m.Address, fmt.Sprintf("a%d", i)), l)
		ends = append(ends, server)
		_ = device.SetWriteDeadline(time.Now().Add(3 * time.Second))
		writers.Go(func() {
			n, err := io.Copy(device, io.LimitReader(zeros{}, 64<<20))
			if !errors.Is(err, os.ErrDeadlineExceeded) || n > windowBytes+2*sendBuffer {
				t.Errorf("%d bytes were taken, error %v", n, err)
			}
		})
	}
	well, server := connectPair(t, dialer(m.Address, "well"), l)
	echo(t, well, server)
	writers.Wait()
	echo(t, well, server)
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d stalled connections, both ends: %d KiB each", devices, grown>>10/devices)
	if grown > devices*(windowBytes+sendBuffer)*3/2+8<<20 {
		t.Errorf("%d stalled connections hold %d bytes", devices, grown)
	}
	for _, c := range ends {
		if _, err := io.CopyN(io.Discard, c, windowBytes); err != nil {
			t.Errorf("after the stall: %v", err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestFullQueue: what a broker drops is noticed, and never yields wrong bytes.
func TestFullQueue(t *testing.T) {
	m := brokertest.Start(t, "max_queued_messages 2\nmax_inflight_messages 1\nmax_queued_bytes 4096")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	for attempt := 0; b.stats().Gaps == 0; attempt++ {
		if attempt == 50 {
			t.Fatal("the broker dropped nothing")
		}
		device, server := connectPair(t, dialer(m.Address, "a"), l)
		go func() {
			for i := range 1 << 16 {
				if _, err := device.Write(bytes.Repeat([]byte{byte(i >> 8), byte(i)}, 2000)); err != nil {
					return
				}
			}
			_ = device.Close()
		}()
		block := make([]byte, 4000)
		for i := 0; ; i++ {
			if _, err := io.ReadFull(server, block); err != nil {
				break
			}
			if !bytes.Equal(block, bytes.Repeat([]byte{byte(i >> 8), byte(i)}, 2000)) {
				t.Fatal("wrong bytes")
			}
		}
		_ = device.Close()
	}
}

// TestMessageSizeLimit: a broker may drop what it finds too large and say so to nobody. Both ends tell where to look.
func TestMessageSizeLimit(t *testing.T) {
	m := brokertest.Start(t, "message_size_limit 20000")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	if _, err := device.Write(make([]byte, sendBuffer)); err != nil { // as two large messages and a small one
		t.Fatal(err)
	}
	for name, end := range map[string]net.Conn{"server": server, "device": device} {
		if _, err := io.Copy(io.Discard, end); err == nil || !strings.Contains(err.Error(), "is missing") || !strings.Contains(err.Error(), "allows no message that large (mqtt.maxPayload)") {
			t.Errorf("the %s: %v", name, err)
		}
	}
}

// TestOneClientID: two devices that were given one client ID. The broker lets the later one in.
func TestOneClientID(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	d := dialer(m.Address, "a")
	d.Broker.ClientID = "device-a"
	first, firstServer := connectPair(t, d, l)
	second, secondServer := connectPair(t, d, l)
	if _, err := first.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "is down") {
		t.Errorf("the first device: %v", err)
	}
	if _, err := firstServer.Read(make([]byte, 1)); !errors.Is(err, errPeerGone) {
		t.Errorf("the server's end of it: %v", err)
	}
	echo(t, second, secondServer)
}

// TestManyConnections: a device that never closes anything cannot have as many as it likes.
func TestManyConnections(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	first, _ := connectPair(t, dialer(m.Address, "a"), l)
	var device, server *link.Conn
	for range maxPerDevice {
		device, server = connectPair(t, dialer(m.Address, "a"), l)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "further connections") {
		t.Errorf("the oldest: %v", err)
	}
	echo(t, device, server)
	b.mu.RLock()
	n := len(b.devices[upTopic(testNamespace, "default", "a")])
	b.mu.RUnlock()
	if n != maxPerDevice {
		t.Errorf("there are %d", n)
	}
}
