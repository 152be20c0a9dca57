package mqtt

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// BenchmarkThroughput is one stream through a real broker, each way.
func BenchmarkThroughput(b *testing.B) {
	m, second := brokertest.StartWebSocket(b, "")
	plain := func(device, server net.Conn) (net.Conn, net.Conn) { return device, server }
	for name, tt := range map[string]struct {
		broker BrokerConfig
		wrap   func(device, server net.Conn) (net.Conn, net.Conn)
	}{
		"plain":     {BrokerConfig{Server: m.Address}, plain},
		"tls":       {BrokerConfig{Server: m.Address}, func(device, server net.Conn) (net.Conn, net.Conn) { return overTLS(b, device, server) }},
		"websocket": {BrokerConfig{Server: second, Transport: TransportWebSocket}, plain},
	} {
		b.Run(name, func(b *testing.B) {
			_, l := serve(b, tt.broker, ListenOptions{})
			d := dialer("", "a")
			d.Broker = tt.broker
			device, server := tt.wrap(connectPair(b, d, l))
			b.Run("up", func(b *testing.B) { benchmarkStream(b, device, server) })
			b.Run("down", func(b *testing.B) { benchmarkStream(b, server, device) })
		})
	}
}

func benchmarkStream(b *testing.B, from, to net.Conn) {
	block := make([]byte, 32<<10)
	b.SetBytes(int64(len(block)))
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := from.Write(block); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, to, int64(b.N)*int64(len(block))); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRoundTrip is one byte there and back.
func BenchmarkRoundTrip(b *testing.B) {
	m := brokertest.Start(b, "")
	_, l := serve(b, BrokerConfig{Server: m.Address}, ListenOptions{})
	pairs := map[string]func() (*link.Conn, *link.Conn){
		"mqtt": func() (*link.Conn, *link.Conn) { return connectPair(b, dialer(m.Address, "a"), l) },
		"tcp":  func() (*link.Conn, *link.Conn) { return tcpPair(b) },
	}
	for name, pair := range pairs {
		b.Run(name, func(b *testing.B) {
			device, server := pair()
			go func() { _, _ = io.Copy(device, device) }()
			times := make([]time.Duration, 0, b.N)
			buffer := make([]byte, 1)
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				if _, err := server.Write(buffer); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(server, buffer); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func tcpPair(b *testing.B) (device, server *link.Conn) {
	l, err := link.ListenTCP(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	device, err = link.TCP{}.Dial(b.Context(), l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = device.Close(), c.Close() })
	return device, c.(*link.Conn)
}

// overTLS puts TLS onto both ends.
func overTLS(t testing.TB, device, server net.Conn) (net.Conn, net.Conn) {
	t.Helper()
	cert := selfSigned(t)
	client := tls.Client(device, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, s
}
