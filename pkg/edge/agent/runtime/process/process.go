// Package process is a container runtime for devices that have none: an implementation of the CRI,
// in the agent's process, that runs host executables for containers of the reserved image "host".
// It speaks CRI exactly (states, ids, exit codes, errors), so that the pod manager needs to know
// nothing of it. It isolates nothing: containers share the host's network, files and process ids;
// what they get of their own are their mounts, where the system permits that, and their user.
//
// Each container lives under a shim (package shim) and outlives the agent. The disk holds the truth;
// what is in memory here is read from it again when the agent starts.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/drain"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// Name of the runtime in node and container statuses.
const Name = "process"

// Options configure a Runtime.
type Options struct {
	// StateDir holds the records of sandboxes and containers. Required; it is created with mode 0700.
	StateDir string
	// Version is reported as the version of the runtime.
	Version string
	// HostIP gives the address of pods, as they are all in the host's network. May be nil.
	HostIP func() string
}

// Runtime is a runtime.Runtime.
type Runtime struct {
	runtime.Unsupported

	options   Options
	logger    klog.Logger
	mountMode shim.MountMode
	// mountErr is why there are no mount namespaces, with mountMode MountNone.
	mountErr error
	// patience is how long output of commands is waited for after their end.
	patience time.Duration
	// answerPatience is how long shims may take to answer what they can answer at once.
	answerPatience time.Duration

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	monitors sync.WaitGroup
}

var _ runtime.Runtime = &Runtime{}

// New reads the records of the state directory and takes up the containers that still run. The
// context gives the logger; it does not end the runtime, Close does.
func New(ctx context.Context, options Options) (*Runtime, error) {
	if options.StateDir == "" {
		return nil, errors.New("process: Options.StateDir is required")
	}
	r := &Runtime{
		options: options, logger: klog.FromContext(ctx).WithName("process-runtime"), patience: drain.Patience, answerPatience: 10 * time.Second,
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
	}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, dir := range []string{options.StateDir, r.sandboxDir(), r.containersDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("process: %w", err)
		}
	}
	r.mountMode = shim.MountNamespace
	if os.Geteuid() != 0 {
		r.mountMode = shim.MountUserNamespace
	}
	if err := shim.CanMount(r.mountMode); err != nil {
		r.mountMode, r.mountErr = shim.MountNone, mountsDenied(err)
		r.logger.Info("Containers get no mounts", "reason", r.mountErr.Error())
	}
	if err := r.load(); err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	return r, nil
}

// Close stops watching the containers and leaves them running.
func (r *Runtime) Close(context.Context) error {
	r.cancel()
	r.monitors.Wait()
	return nil
}

func (r *Runtime) sandboxDir() string    { return filepath.Join(r.options.StateDir, "sandboxes") }
func (r *Runtime) containersDir() string { return filepath.Join(r.options.StateDir, "containers") }

// load reads all records. One that is damaged is set aside with a message, not fatal: the other pods
// must come back.
func (r *Runtime) load() error {
	if err := diskfile.Clean(r.sandboxDir()); err != nil {
		return fmt.Errorf("process: %w", err)
	}
	entries, err := os.ReadDir(r.sandboxDir())
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	for _, e := range entries {
		s, err := r.loadSandbox(e.Name())
		if err != nil {
			r.logger.Error(err, "Dropping the record of a sandbox that cannot be read", "file", e.Name())
			_ = os.Remove(filepath.Join(r.sandboxDir(), e.Name()))
			continue
		}
		r.sandboxes[s.id] = s
	}
	entries, err = os.ReadDir(r.containersDir())
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	deadline := time.Now().Add(loadPatience)
	for _, e := range entries {
		c, err := r.loadContainer(e.Name(), deadline)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.logger.Error(err, "Dropping a container whose record cannot be read, and ending it", "id", e.Name())
			}
			r.drop(e.Name())
			continue
		}
		r.containers[c.id] = c
		if c.started != nil && c.exit == nil {
			r.watch(c)
		}
	}
	return nil
}

// drop removes a container that cannot be taken up. It must not run on where nobody knows of it.
func (r *Runtime) drop(id string) {
	c := &container{id: id, dir: filepath.Join(r.containersDir(), id), started: &shim.Started{}}
	if started, err := shim.ReadStarted(c.dir); err == nil {
		c.started = started
	}
	if shim.Alive(c.dir) || c.started.Alive() {
		if err := r.signal(r.ctx, c, syscall.SIGKILL); err != nil {
			r.logger.Error(err, "Cannot end a container that was dropped", "id", id, "pid", c.started.PID)
		}
	}
	_ = os.RemoveAll(c.dir)
}

// Version is a CRI call.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: Name, RuntimeVersion: r.options.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status is a CRI call. The runtime is ready as soon as it exists; so is the network, the host's.
func (r *Runtime) Status(_ context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	response := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true},
			{Type: runtimeapi.NetworkReady, Status: true},
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: ""}},
		// Without root, containers have the agent's groups, and cannot do without.
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: os.Geteuid() == 0},
	}
	if verbose {
		response.Info = map[string]string{"mounts": fmt.Sprintf("%q", r.mountMode)}
	}
	return response, nil
}

// RuntimeConfig is a CRI call.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{
		CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS,
	}}, nil
}

// unsupported is the answer to the optional calls of the CRI that make no sense without containers.
func unsupported(what string) error {
	return status.Errorf(codes.Unimplemented, "the process runtime does not support %s", what)
}

// UpdateContainerResources is a CRI call. There are no cgroups to change.
func (r *Runtime) UpdateContainerResources(context.Context, string, *runtimeapi.ContainerResources) error {
	return unsupported("changing the resources of a container")
}

// now is in nanoseconds, as all times of the CRI are.
func now() int64 { return time.Now().UnixNano() }
