// Package fleet simulates edge devices: many agents in one process, each with the real code from the
// link up to its pods, mutual TLS and enrolment included, over a container runtime that runs nothing
// (package fakecri). It knows how to run devices, not what to measure of them.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/pkg/edge/agent"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/links"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/agent/volumes"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
)

// lookPeriod is how often a simulated device looks at its runtime and machine: rarely, because nothing
// happens there by itself.
const lookPeriod = 10 * time.Minute

// gcPercent is how much the heap of this process may grow between two garbage collections, in percent, unless
// GOGC says otherwise: the devices should cost the machine that they share with what is measured little.
const gcPercent = 400

// Options say what the devices are like.
type Options struct {
	// Dir holds the state of the devices; a directory in memory is best. Created if missing.
	Dir string
	// Configure returns the configuration of a device, of which the fleet needs the server and what
	// belongs to the link.
	Configure func(name string) *config.Configuration
	// Runtime is how their container runtimes behave.
	Runtime fakecri.Options
}

// Fleet is a number of devices. Its methods may be called concurrently.
type Fleet struct {
	options Options
	machine agent.Machine
	gate    gate

	mu      sync.Mutex
	devices map[string]*device
	// joined holds the links of devices that have enrolled and do not run yet, by name.
	joined map[string]*uplink.Joined
	// servers are where the devices' links lead to, host:port of gateways and brokers.
	servers map[string]bool
}

type device struct {
	runtime *fakecri.Runtime
	stop    context.CancelFunc
	done    chan struct{}
	err     error // valid when done is closed
}

// New returns a fleet without devices. It raises the limit of open files of this process as far as it
// may: each device has a connection. It also has garbage collected less often.
func New(o Options) (*Fleet, error) {
	switch {
	case o.Dir == "":
		return nil, errors.New("fleet: no directory is given")
	case o.Configure == nil:
		return nil, errors.New("fleet: no configuration is given")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return &Fleet{options: o, machine: agent.MeasureMachine(o.Dir), devices: map[string]*device{}, joined: map[string]*uplink.Joined{},
		servers: map[string]bool{}}, nil
}

// configure returns a valid configuration and the device's own dialer.
func (f *Fleet) configure(name string, device identity.Device) (*config.Configuration, link.Dialer, error) {
	cfg := f.options.Configure(name)
	cfg.StateDir = filepath.Join(f.options.Dir, name)
	cfg.LogDir = filepath.Join(cfg.StateDir, "logs")
	cfg.Logging.File.Disabled = true
	// The host is whatever machine this runs on: nobody who reaches a simulated device is to reach it.
	cfg.Policy = config.Policy{
		HostExec: ptr.To(false), HostAttach: ptr.To(false), HostLog: config.HostLog{Allow: ptr.To(false)},
		HostPortForward: config.HostPortForward{AllowLoopback: ptr.To(false)},
	}
	if err := cfg.Finish(); err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range cfg.Addresses() {
		f.servers[a.HostPort] = true
	}
	return cfg, &gated{Chooser: links.New(cfg, device), gate: &f.gate}, nil
}

// Enrol enrols a device with its token. The device does not run yet; if it is started soon it goes on over
// the link that it has enrolled by.
func (f *Fleet) Enrol(ctx context.Context, name, token string) error {
	t, err := identity.ParseToken(token)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	cfg, dialer, err := f.configure(name, identity.Device{Namespace: t.Namespace, Name: t.Name})
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	joined, err := uplink.Join(ctx, uplink.JoinOptions{Server: cfg.Server, Token: token, StateDir: cfg.StateDir, Dialer: dialer})
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joined[name].Close()
	f.joined[name] = joined
	return nil
}

// takeJoined returns the link that a device has enrolled by, nil if it did not since it ran last.
func (f *Fleet) takeJoined(name string) *uplink.Joined {
	f.mu.Lock()
	defer f.mu.Unlock()
	joined := f.joined[name]
	delete(f.joined, name)
	return joined
}

// identity returns who an enrolled device is.
func (f *Fleet) identity(name string, joined *uplink.Joined) (identity.Device, error) {
	if joined != nil {
		return joined.Device(), nil
	}
	return uplink.LoadDevice(filepath.Join(f.options.Dir, name))
}

// Start runs an enrolled device until Stop, or until ctx ends.
func (f *Fleet) Start(ctx context.Context, name string) error {
	joined := f.takeJoined(name)
	if err := f.start(ctx, name, joined); err != nil {
		joined.Close()
		return fmt.Errorf("device %s: %w", name, err)
	}
	return nil
}

func (f *Fleet) start(ctx context.Context, name string, joined *uplink.Joined) error {
	id, err := f.identity(name, joined)
	if err != nil {
		return err
	}
	cfg, dialer, err := f.configure(name, id)
	if err != nil {
		return err
	}
	runtime := fakecri.New(f.options.Runtime)
	enrolled := func(context.Context) (*uplink.Joined, error) { return joined, nil }
	seams := agent.Seams{Enrol: enrolled, Runtime: runtime, Dialer: dialer, Period: lookPeriod, Machine: f.machine, Shared: true}
	a, err := agent.New(ctx, cfg, seams)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	d := &device{runtime: runtime, stop: stop, done: make(chan struct{})}
	f.mu.Lock()
	former := f.devices[name]
	if former == nil {
		f.devices[name] = d
	}
	f.mu.Unlock()
	if former != nil {
		stop()
		return errors.Join(errors.New("it runs already"), a.Close(ctx))
	}
	go func() {
		defer close(d.done)
		d.err = a.Run(ctx)
	}()
	return nil
}

// Close ends all devices and forgets what they had. Their pods, which outlive an agent, have volumes mounted.
func (f *Fleet) Close() error {
	f.mu.Lock()
	devices := f.devices
	f.devices = map[string]*device{}
	for _, j := range f.joined {
		j.Close()
	}
	clear(f.joined)
	f.mu.Unlock()
	for _, d := range devices {
		d.stop()
	}
	var errs []error
	for _, d := range devices {
		<-d.done
		errs = append(errs, d.err)
	}
	return errors.Join(append(errs, volumes.RemoveAll(f.options.Dir))...)
}

// StateDir is where a device keeps its pods' files, among others.
func (f *Fleet) StateDir(name string) string { return filepath.Join(f.options.Dir, name) }

// Pods is how many pods the devices run.
func (f *Fleet) Pods() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, d := range f.devices {
		n += d.runtime.Pods()
	}
	return n
}

// Links is how many connections the devices have, and Bytes what went over all that they ever had: from
// and to the devices, TLS included.
func (f *Fleet) Links() int { return f.gate.len() }

// LinksSince is how many of them were made after a moment.
func (f *Fleet) LinksSince(t time.Time) int { return f.gate.since(t) }

// Bytes is described with Links.
func (f *Fleet) Bytes() (sent, received int64) { return f.gate.bytes() }

// Break cuts all links at once, as a network or what stands in it does that fails: nobody takes leave, neither of aranya
// nor of a broker. They may come up again at once.
func (f *Fleet) Break(ctx context.Context) error {
	f.mu.Lock()
	servers := slices.Collect(maps.Keys(f.servers))
	f.mu.Unlock()
	peers := map[netip.AddrPort]bool{}
	for _, server := range servers {
		if err := resolve(ctx, server, peers); err != nil {
			return err
		}
	}
	return shutdown(peers)
}
