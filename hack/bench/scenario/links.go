package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

var links = harness.Scenario{
	Name: "links",
	Doc: "three devices side by side, each on another link: what a command, a keystroke and a byte cost over TCP, WebSocket and MQTT " +
		"(Mosquitto), and what each link costs in N seconds of idleness",
	N:       660,
	SmokeN:  2,
	Cluster: harness.Cluster{Link: local.LinkMQTT, Runtime: local.RuntimeProcess},
	Run:     runLinks,
}

// measuredLinks are compared with the first.
var measuredLinks = []string{local.LinkGRPC, local.LinkWebSocket, local.LinkMQTT}

// linkBench is what the parts of the scenario share.
type linkBench struct {
	*harness.Run
	api, direct *sessions
	devices     map[string]string // by link
}

func runLinks(ctx context.Context, r *harness.Run) error {
	b := &linkBench{Run: r, devices: map[string]string{}}
	var err error
	if b.api, err = newSessions(r.Config); err != nil {
		return err
	}
	if b.direct, err = newSessions(r.Direct()); err != nil {
		return err
	}
	var names []string
	for i, link := range measuredLinks {
		if err := r.Cluster.AddDeviceOver(ctx, i+1, link); err != nil {
			return fmt.Errorf("a device over %s: %w", link, err)
		}
		b.devices[link] = fmt.Sprintf("device-%d", i+1)
		names = append(names, b.devices[link])
	}
	if err := startEcho(ctx, r, names); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{b.commands, b.keystrokes, b.throughput, b.idle} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// compare adds the latencies of each link, the target being a multiple of the first.
func (b *linkBench) compare(what string, samples map[string]*measure.Samples, factor float64) {
	first := samples[measuredLinks[0]].Median()
	for _, link := range measuredLinks {
		var target *report.Target
		if link == local.LinkMQTT && factor > 0 {
			target = report.AtMost(factor * ms(first))
		}
		b.Latency(link+": "+what, samples[link], target, nil)
	}
}

// commands runs a command on each device, in turns.
func (b *linkBench) commands(ctx context.Context) error {
	samples := b.samples()
	rounds := 300
	if b.Smoke {
		rounds = 3
	}
	for range rounds {
		for link, s := range samples {
			if err := s.Time(func() error { return b.api.run(ctx, b.devices[link], nil, io.Discard, "true") }); err != nil {
				return fmt.Errorf("run a command over %s: %w", link, err)
			}
		}
	}
	b.compare("exec of true through the API", samples, 3)
	return nil
}

func (b *linkBench) samples() map[string]*measure.Samples {
	samples := map[string]*measure.Samples{}
	for _, link := range measuredLinks {
		samples[link] = &measure.Samples{}
	}
	return samples
}

// keystrokes has a byte go to each device and back, in sessions that are open.
func (b *linkBench) keystrokes(ctx context.Context) error {
	samples := b.samples()
	rounds := 1000
	if b.Smoke {
		rounds = 10
	}
	for link, s := range samples {
		if err := b.typeKeys(ctx, b.devices[link], rounds, s); err != nil {
			return fmt.Errorf("type over %s: %w", link, err)
		}
	}
	b.compare("keystroke and its echo", samples, 3)
	return nil
}

func (b *linkBench) typeKeys(ctx context.Context, device string, rounds int, samples *measure.Samples) error {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := b.direct.run(ctx, device, in, out, "cat")
		_ = out.CloseWithError(err)
		ended <- err
	}()
	key := make([]byte, 1)
	for range rounds {
		if err := samples.Time(func() error {
			if _, err := stdin.Write([]byte("k")); err != nil {
				return err
			}
			_, err := io.ReadFull(stdout, key)
			return err
		}); err != nil {
			return err
		}
	}
	return errors.Join(stdin.Close(), <-ended)
}

// throughput sends bytes to each device, from it, and there and back through a port-forward.
func (b *linkBench) throughput(ctx context.Context) error {
	size := int64(256 << 20)
	if b.Smoke {
		size = 1 << 20
	}
	targets := map[string]*report.Target{local.LinkGRPC: report.AtLeast(100), local.LinkMQTT: report.AtLeast(50)}
	for i, link := range measuredLinks {
		device := b.devices[link]
		for _, t := range []struct {
			name   string
			target *report.Target
			run    func() error
		}{
			{"one stream from the device", targets[link], func() error {
				count := &counter{}
				err := b.direct.run(ctx, device, nil, count, "head", "-c", strconv.FormatInt(size, 10), "/dev/zero")
				return errors.Join(err, expect(count.n, size))
			}},
			{"one stream to the device", nil, func() error {
				var count strings.Builder
				err := b.direct.run(ctx, device, io.LimitReader(zeros{}, size), &count, "wc", "-c")
				n, parseErr := strconv.ParseInt(strings.TrimSpace(count.String()), 10, 64)
				return errors.Join(err, parseErr, expect(n, size))
			}},
			{"port-forward, there and back", nil, func() error { return b.direct.echo(device, echoPortOf(b.Run, i), size/4) }},
		} {
			begin := time.Now()
			if err := t.run(); err != nil {
				return fmt.Errorf("%s: %s: %w", link, t.name, err)
			}
			moved := size
			if strings.HasPrefix(t.name, "port-forward") {
				moved /= 4
			}
			b.Figure(report.Figure{Name: link + ": " + t.name, Value: float64(moved) / 1e6 / time.Since(begin).Seconds(), Unit: "MB/s", Target: t.target})
		}
	}
	return nil
}

func expect(got, want int64) error {
	if got != want {
		return fmt.Errorf("%d of %d bytes came", got, want)
	}
	return nil
}

// zeros never ends.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

const secondsPerDay = 24 * 60 * 60

// idle counts what the devices send and receive while nothing happens.
func (b *linkBench) idle(ctx context.Context) error {
	if b.Cluster.State().Network == nil {
		b.Log("not root: the devices have no networks of their own in which to count idle bytes")
		return nil
	}
	before, err := b.wire(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	b.Log("counting the bytes of idle links for %d s", b.N)
	if err := sleep(ctx, time.Duration(b.N)*time.Second); err != nil {
		return err
	}
	after, err := b.wire(ctx)
	if err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	for _, link := range measuredLinks {
		perSecond := float64(after[link]-before[link]) / seconds
		note := fmt.Sprintf("TCP/IP headers included, in %.0f s", seconds)
		var perSecondTarget, perDayTarget *report.Target
		switch link {
		case local.LinkGRPC:
			perSecondTarget = report.AtMost(10)
		case local.LinkMQTT:
			perDayTarget = report.AtMost(100)
		}
		b.Figure(report.Figure{Name: link + ": idle", Value: perSecond, Unit: "B/s", Target: perSecondTarget, Note: note})
		b.Figure(report.Figure{Name: link + ": idle per hour", Value: perSecond * 3.6, Unit: "kB", Note: note})
		b.Figure(report.Figure{Name: link + ": idle per day", Value: perSecond * secondsPerDay / 1000, Unit: "kB", Target: perDayTarget, Note: note})
	}
	return nil
}

// wire returns how many bytes of IP the devices have sent and received so far, by link.
func (b *linkBench) wire(ctx context.Context) (map[string]int64, error) {
	total := map[string]int64{}
	for link, device := range b.devices {
		pid, err := b.Cluster.PID(ctx, device, local.ServiceArhat)
		if err != nil {
			return nil, err
		}
		if total[link], err = measure.NetworkBytes(pid); err != nil {
			return nil, err
		}
	}
	return total, nil
}
