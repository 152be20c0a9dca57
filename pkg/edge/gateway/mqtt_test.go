package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// serveMQTT has the gateway take devices from a broker, again whenever it comes back.
func (w *world) serveMQTT(t testing.TB, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			b, err := mqtt.Connect(ctx, mqtt.BrokerConfig{Server: address, Instance: "replica-1"})
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			if l, err := b.Listen(ctx, mqtt.DefaultMessageNamespace, mqtt.ListenOptions{}); err == nil {
				_ = w.Serve(ctx, l, nil)
			}
			_ = b.Close()
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
}

// mqttDevice enrols and runs a device by way of a broker only.
func (w *world) mqttDevice(t testing.TB, address string, change ...func(*device, *uplink.Config)) (d *device, dir string) {
	t.Helper()
	id := w.directory.put("device-1", "uid-1")
	token, _, err := w.IssueToken(t.Context(), id, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	dialer := mqtt.Dialer{Broker: mqtt.BrokerConfig{Server: address}, Namespace: id.Namespace, Name: id.Name}
	dir = t.TempDir()
	if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: address, Token: token, StateDir: dir, Dialer: dialer}); err != nil {
		t.Fatal(err)
	}
	change = append(change, func(_ *device, c *uplink.Config) {
		c.Server, c.Dialer, c.MaxBackoff = address, dialer, time.Second
	})
	return w.run(t, dir, change...), dir
}

func TestMQTT(t *testing.T) {
	broker := brokertest.Start(t, "")
	w := newWorld(t)
	w.serveMQTT(t, broker.Address)
	d, _ := w.mqttDevice(t, broker.Address, func(d *device, _ *uplink.Config) { d.serve = cat(42) })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	info := s.Info()
	if info.Method != link.MethodMQTT || !strings.HasSuffix(info.RemoteAddress, "/edge/device-1/up") || info.BytesIn == 0 {
		t.Errorf("the link is %+v", info)
	}
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	go func() {
		stdin := st.Writer(edgeapi.Channel_STDIN)
		_, _ = stdin.Write(in)
		_ = stdin.Close()
	}()
	out, err := io.ReadAll(st.Reader(edgeapi.Channel_STDOUT))
	if err != nil || !bytes.Equal(in, out) {
		t.Errorf("%d bytes came back of %d, error %v", len(out), len(in), err)
	}
	if result, err := st.Wait(t.Context()); err != nil || result.ExitCode != 42 {
		t.Errorf("result %v, error %v", result, err)
	}
	// A device that leaves is noticed at once, not by the next ping.
	d.stop()
	w.handler.next(t, "ended")
}

// TestMQTTBrokerRestarts: a stream that is under way ends with an error and right bytes up to it, and both
// ends come back by themselves.
func TestMQTTBrokerRestarts(t *testing.T) {
	broker := brokertest.Start(t, "")
	w := newWorld(t)
	w.serveMQTT(t, broker.Address)
	d, _ := w.mqttDevice(t, broker.Address, func(d *device, _ *uplink.Config) { d.serve = cat(0) })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	seed := [32]byte{1}
	go func() {
		_, _ = io.Copy(st.Writer(edgeapi.Channel_STDIN), rand.NewChaCha8(seed)) // until the link breaks
	}()
	out, want := st.Reader(edgeapi.Channel_STDOUT), rand.NewChaCha8(seed)
	checked := 0
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	for stopped := false; ; {
		if checked > 4<<20 && !stopped {
			stopped = true
			broker.Stop()
		}
		n, err := out.Read(got)
		_, _ = io.ReadFull(want, expected[:n])
		if !bytes.Equal(got[:n], expected[:n]) {
			t.Fatalf("wrong bytes after %d", checked)
		}
		checked += n
		if errors.Is(err, io.EOF) {
			t.Error("the stream ended as if all was said")
		}
		if err != nil {
			break
		}
	}
	if _, err := st.Wait(t.Context()); err == nil {
		t.Error("the stream has a result")
	} else {
		t.Logf("after %d bytes: %v", checked, err)
	}
	st.Close()
	if r := w.handler.next(t, "ended").reason; r == nil || !strings.Contains(r.Error(), "MQTT broker") {
		t.Errorf("the session ended because of %v", r)
	}
	if err := receive(t, d.disconnected, "the device to notice"); err == nil {
		t.Error("the device has no reason")
	}
	broker.Start()
	w.comesBack(t, d)
}

// comesBack waits for the device and checks its new link.
func (w *world) comesBack(t *testing.T, d *device) {
	t.Helper()
	receive(t, d.connected, "the device to connect again")
	s := w.handler.next(t, "started").s
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	stdin := st.Writer(edgeapi.Channel_STDIN)
	_, _ = stdin.Write([]byte("again"))
	_ = stdin.Close()
	if out, err := io.ReadAll(st.Reader(edgeapi.Channel_STDOUT)); err != nil || string(out) != "again" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestMQTTTwoAgents: of two agents with one identity only one has the link, and both sides say so.
func TestMQTTTwoAgents(t *testing.T) {
	broker := brokertest.Start(t, "")
	w := newWorld(t)
	w.serveMQTT(t, broker.Address)
	first, dir := w.mqttDevice(t, broker.Address)
	receive(t, first.connected, "the first agent to connect")
	w.handler.next(t, "started")
	dialer := mqtt.Dialer{Broker: mqtt.BrokerConfig{Server: broker.Address}, Namespace: "edge", Name: "device-1"}
	second := w.run(t, dir, func(_ *device, c *uplink.Config) { c.Server, c.Dialer = broker.Address, dialer })
	receive(t, second.connected, "the second agent to connect")
	if err := receive(t, first.disconnected, "the first agent to be refused"); !strings.Contains(err.Error(), "another machine uses a copy of its identity") {
		t.Errorf("the first agent is told %v", err)
	}
	for {
		r := <-w.handler.records
		if r.what != "ended" {
			continue
		}
		if !strings.Contains(r.reason.Error(), "another machine uses a copy of its identity") {
			t.Errorf("the server says %v", r.reason)
		}
		break
	}
	first.stop()
	second.stop()
}

// TestMQTTCapture: nothing that passes through the broker can be read there.
func TestMQTTCapture(t *testing.T) {
	broker := brokertest.Start(t, "")
	capture := brokertest.Capture(t, broker)
	w := newWorld(t)
	w.serveMQTT(t, broker.Address)
	d, _ := w.mqttDevice(t, broker.Address, func(d *device, _ *uplink.Config) { d.serve = cat(0) })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	const secret = "correct-horse-battery-staple"
	message := &edgeapi.UpdateVolumes{Uid: "pod", Volumes: []*edgeapi.VolumeData{{Name: secret}}}
	if err := s.Send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_UpdateVolumes{UpdateVolumes: message}}); err != nil {
		t.Fatal(err)
	}
	receive(t, d.messages, "the message")
	all := capture()
	if len(all) < 1000 {
		t.Fatalf("only %d bytes were captured", len(all))
	}
	if bytes.Contains(all, []byte(secret)) {
		t.Error("the broker can read it")
	}
	d.stop()
}
