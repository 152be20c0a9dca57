package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

const (
	// streamDevices is how many devices share the sessions: one device has at most 256 at a time.
	streamDevices = 4
	// opening is how many sessions are opened at the same time.
	opening = 32
)

var streams = harness.Scenario{
	Name: "streams",
	Doc: "exec, log and port-forward to 4 real devices: time of a command, memory of 1000 sessions at a time, throughput, and what is " +
		"left after N sessions were opened and closed",
	N:       100000,
	SmokeN:  30,
	Cluster: harness.Cluster{Devices: streamDevices, Runtime: local.RuntimeProcess},
	Run:     runStreams,
}

// streamBench is what the parts of the scenario share.
type streamBench struct {
	*harness.Run
	api, direct *sessions
	devices     []string
	// aranya and arhat are the processes.
	aranya int
	arhat  []int
}

func runStreams(ctx context.Context, r *harness.Run) error {
	b := &streamBench{Run: r}
	var err error
	if b.api, err = newSessions(r.Config); err != nil {
		return err
	}
	if b.direct, err = newSessions(r.Direct()); err != nil {
		return err
	}
	if b.aranya, err = r.PID(ctx, local.ServiceAranya); err != nil {
		return err
	}
	for i := range streamDevices {
		name := fmt.Sprintf("device-%d", i+1)
		pid, err := r.Cluster.PID(ctx, name, local.ServiceArhat)
		if err != nil {
			return err
		}
		b.devices, b.arhat = append(b.devices, name), append(b.arhat, pid)
	}
	if err := startEcho(ctx, r, b.devices); err != nil {
		return err
	}
	if err := poll(ctx, func(ctx context.Context) error { return b.everywhere(ctx) }); err != nil {
		return err
	}
	stop, err := r.Watch(ctx, local.ServiceAranya, local.ServiceAPIServer)
	if err != nil {
		return err
	}
	defer stop()
	for _, part := range []func(context.Context) error{b.roundTrips, b.throughput, b.concurrent, b.leaks} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// everywhere tries a session of each kind with each device.
func (b *streamBench) everywhere(ctx context.Context) error {
	for i := range len(b.devices) * len(kinds) {
		if err := b.once(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// Kinds of sessions.
const (
	kindExec    = "exec"
	kindLog     = "log"
	kindForward = "port-forward"
)

var kinds = []string{kindExec, kindLog, kindForward}

// open opens the i-th session of a kind; the devices take turns.
func (b *streamBench) open(ctx context.Context, i int, kind string) (*session, error) {
	n := i % len(b.devices)
	switch kind {
	case kindExec:
		return b.api.openExec(ctx, b.devices[n])
	case kindLog:
		return b.api.openLog(ctx, b.devices[n], true)
	default:
		return b.api.openForward(b.devices[n], echoPortOf(b.Run, n))
	}
}

// once opens and closes a session. The devices take turns, and on each the kinds.
func (b *streamBench) once(ctx context.Context, i int) error {
	s, err := b.open(ctx, i, kinds[i/len(b.devices)%len(kinds)])
	if err != nil {
		return err
	}
	return s.close()
}

// roundTrips compares a command through the API with the same here.
func (b *streamBench) roundTrips(ctx context.Context) error {
	rounds := b.scaled(300, 10)
	var own, api, direct measure.Samples
	for range rounds { // in turns, so that all see the same machine
		for _, err := range []error{
			own.Time(func() error { return exec.CommandContext(ctx, "true").Run() }),
			api.Time(func() error { return b.api.run(ctx, b.devices[0], nil, io.Discard, "true") }),
			direct.Time(func() error { return b.direct.run(ctx, b.devices[0], nil, io.Discard, "true") }),
		} {
			if err != nil {
				return fmt.Errorf("run a command: %w", err)
			}
		}
	}
	b.Latency("exec of true through the API", &api, nil, nil)
	b.Latency("exec of true at aranya, past kube-apiserver", &direct, nil, nil)
	b.Latency("true without anything between", &own, nil, nil)
	b.Figure(report.Figure{Name: "exec adds p50", Value: ms(api.Median() - own.Median()), Unit: "ms", Target: report.AtMost(50), Note: "new connection, TLS and RBAC included"})
	return nil
}

// scaled is n, or few for a smoke run.
func (b *streamBench) scaled(n, few int) int {
	if b.Smoke {
		return few
	}
	return n
}

// throughput has devices send zeros.
func (b *streamBench) throughput(ctx context.Context) error {
	for _, t := range []struct {
		name     string
		via      *sessions
		sessions int
		mib      int
		target   *report.Target
	}{
		{"one session, past kube-apiserver", b.direct, 1, 512, report.AtLeast(100)},
		{"one session through the API", b.api, 1, 512, nil},
		{"100 sessions through the API, together", b.api, 100, 8, nil},
	} {
		size := b.scaled(t.mib, 1) << 20
		var total atomic.Int64
		took, err := harness.Parallel(ctx, t.sessions, t.sessions, func(ctx context.Context, i int) error {
			count := &counter{}
			if err := t.via.run(ctx, b.devices[i%len(b.devices)], nil, count, "head", "-c", fmt.Sprint(size), "/dev/zero"); err != nil {
				return err
			}
			total.Add(count.n)
			return nil
		})
		if err != nil {
			return fmt.Errorf("throughput of %s: %w", t.name, err)
		}
		if want := int64(size) * int64(t.sessions); total.Load() != want {
			return fmt.Errorf("throughput of %s: %d of %d bytes came", t.name, total.Load(), want)
		}
		b.Figure(report.Figure{Name: "from the device, " + t.name, Value: float64(total.Load()) / 1e6 / took.Seconds(), Unit: "MB/s", Target: t.target})
	}
	return nil
}

type counter struct{ n int64 }

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// concurrent holds sessions of one kind open.
func (b *streamBench) concurrent(ctx context.Context) error {
	for _, kind := range kinds {
		for _, n := range []int{1, 100, 1000} {
			if err := b.holdMany(ctx, min(n, b.scaled(n, 24)), kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdMany measures the memory of n sessions.
func (b *streamBench) holdMany(ctx context.Context, n int, kind string) error {
	before, err := b.usage(ctx)
	if err != nil {
		return err
	}
	open, err := b.hold(ctx, n, kind)
	if err != nil {
		return err
	}
	during, usageErr := b.usage(ctx)
	_, err = harness.Parallel(ctx, len(open), opening, func(_ context.Context, i int) error { return open[i].close() })
	if n < 100 || err != nil || usageErr != nil {
		return errors.Join(usageErr, err)
	}
	perSession := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(n) }
	live, stacks, arhat := perSession(during.live-before.live), perSession(during.stacks-before.stacks), perSession(during.arhat-before.arhat)
	f := report.Figure{Name: fmt.Sprintf("memory of %s, each of %d at a time", kind, n), Unit: "KiB", Value: live + max(0, arhat),
		Note: fmt.Sprintf("objects on the heap of aranya %.0f, stacks %.0f, RSS of the agents %.0f; heap in use, with what lies free between objects, %.0f",
			live-stacks, stacks, arhat, perSession(during.heap-before.heap))}
	if n == 1000 {
		f.Target = report.AtMost(100)
	}
	b.Figure(f)
	return nil
}

// hold opens n sessions and measures the time that each takes.
func (b *streamBench) hold(ctx context.Context, n int, kind string) ([]*session, error) {
	var mu sync.Mutex
	var open []*session
	var samples measure.Samples
	// What is open must outlive the opening.
	if _, err := harness.Parallel(ctx, n, opening, func(_ context.Context, i int) error {
		return samples.Time(func() error {
			s, err := b.open(ctx, i, kind)
			if err != nil {
				return fmt.Errorf("open session %d, %s: %w", i, kind, err)
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, s)
			return nil
		})
	}); err != nil {
		return nil, err
	}
	b.Latency(fmt.Sprintf("open %s, %d in all", kind, n), &samples, nil, nil)
	return open, nil
}

// streamUsage is memory in bytes, and what must come back to where it was.
type streamUsage struct {
	arhat int64
	// live is what the objects on aranya's heap take, and its stacks: unlike the memory of the process it does not
	// depend on what ran before.
	live int64
	// stacks are a part of it. heap is what is not free for other objects only.
	stacks, heap           int64
	goroutines             float64
	aranyaFiles, arhatFile int
}

// usage is measured when aranya has collected its garbage.
func (b *streamBench) usage(ctx context.Context) (streamUsage, error) {
	var u streamUsage
	m, err := liveMemory(ctx, b.direct)
	if err != nil {
		return u, err
	}
	u.goroutines, u.stacks, u.live, u.heap = m.goroutines, int64(m.stacks), int64(m.objects)+int64(m.stacks), int64(m.heap)
	process, err := measure.Process(b.aranya)
	if err != nil {
		return u, err
	}
	u.aranyaFiles = process.Files
	for _, pid := range b.arhat {
		if process, err = measure.Process(pid); err != nil {
			return u, err
		}
		u.arhat += process.RSS
		u.arhatFile += process.Files
	}
	return u, nil
}

const (
	// leakTime bounds how long sessions are opened and closed, and settleTime how long what they used may
	// take to go.
	leakTime, settleTime = 8 * time.Minute, 30 * time.Second
	// warmUp is how many sessions come before the first look: pools fill, and code is loaded.
	warmUp = 1000
	// Tolerances: other goroutines and files come and go, and the garbage collector has a will of its
	// own.
	looseGoroutines, looseFiles   = 30, 12
	looseAranyaMiB, looseArhatMiB = 32, 8
)

// leaks opens and closes sessions, and looks at what is left of them.
func (b *streamBench) leaks(ctx context.Context) error {
	if _, err := harness.Parallel(ctx, b.scaled(warmUp, 12), opening, b.once); err != nil {
		return err
	}
	before, err := b.settled(ctx, nil)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(leakTime)
	var done atomic.Int64
	took, err := harness.Parallel(ctx, b.N, opening, func(ctx context.Context, i int) error {
		if time.Now().After(deadline) {
			return nil
		}
		done.Add(1)
		return b.once(ctx, i)
	})
	if err != nil {
		return err
	}
	after, err := b.settled(ctx, &before)
	if err != nil {
		return err
	}
	n := int(done.Load())
	b.Figure(report.Figure{Name: "sessions opened and closed", Value: float64(n), Unit: "1", Note: fmt.Sprintf("in %s, at most %s", took.Round(time.Second), leakTime)})
	b.Figure(report.Figure{Name: "sessions opened and closed per second", Value: harness.Rate(n, took), Unit: "1/s"})
	for _, f := range []struct {
		name         string
		value, limit float64
		unit         string
	}{
		{"goroutines of aranya left", after.goroutines - before.goroutines, looseGoroutines, "1"},
		{"files of aranya left open", float64(after.aranyaFiles - before.aranyaFiles), looseFiles, "1"},
		{"files of the agents left open", float64(after.arhatFile - before.arhatFile), looseFiles, "1"},
		{"objects and stacks of aranya grown", float64(after.live-before.live) / (1 << 20), looseAranyaMiB, "MiB"},
		{"memory of an agent grown", float64(after.arhat-before.arhat) / (1 << 20) / streamDevices, looseArhatMiB, "MiB"},
	} {
		b.Figure(report.Figure{Name: f.name, Value: f.value, Unit: f.unit, Target: report.AtMost(f.limit)})
	}
	return nil
}

// settled waits until nothing is left beyond what was before, or until it seems to stay.
func (b *streamBench) settled(ctx context.Context, before *streamUsage) (streamUsage, error) {
	deadline := time.Now().Add(settleTime)
	if before == nil {
		if err := sleep(ctx, b.pause()); err != nil {
			return streamUsage{}, err
		}
	}
	for {
		u, err := b.usage(ctx)
		if err != nil || before == nil || time.Now().After(deadline) {
			return u, err
		}
		if u.goroutines <= before.goroutines && u.aranyaFiles <= before.aranyaFiles && u.arhatFile <= before.arhatFile {
			return u, nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return u, err
		}
	}
}

// pause is how long everything may settle before the first look.
func (b *streamBench) pause() time.Duration { return time.Duration(b.scaled(10, 1)) * time.Second }
