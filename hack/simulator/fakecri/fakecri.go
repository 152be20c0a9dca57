// Package fakecri is a container runtime that runs nothing: it keeps sandboxes and containers in memory
// and says that they run. It is for simulated devices, of which thousands share a process, so it costs
// next to nothing while nothing happens. What tests of the agent need of a fake is in those tests.
package fakecri

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

const (
	runtimeName    = "simulated"
	runtimeVersion = "0.0.0"
)

// errNothingRuns is the answer to what needs a process.
var errNothingRuns = errors.New("a simulated device runs nothing: there is no process to reach")

// Options say how the runtime behaves.
type Options struct {
	// StartDelay is how long a sandbox, and a container, takes to start; up to as much again is added
	// at random.
	StartDelay time.Duration
	// FailureRate is the part of starts that fail, from 0 to 1.
	FailureRate float64
	// PodIP is the address of every pod.
	PodIP string
}

// Runtime implements runtime.Runtime. Its methods may be called concurrently.
type Runtime struct {
	unsupported
	options Options

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

// The objects are never changed once they can be seen by others, but for the fields with a state.
type sandbox struct {
	id      string
	config  *runtimeapi.PodSandboxConfig
	created int64
	state   runtimeapi.PodSandboxState
}

type container struct {
	id, sandbox                string
	config                     *runtimeapi.ContainerConfig
	logPath                    string
	state                      runtimeapi.ContainerState
	created, started, finished int64
	exitCode                   int32
	reason                     string
}

// New returns a runtime without pods.
func New(o Options) *Runtime { return &Runtime{options: o} }

var _ runtime.Runtime = &Runtime{}

// Pods is how many pods have a sandbox that runs.
func (r *Runtime) Pods() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.sandboxes {
		if s.state == runtimeapi.PodSandboxState_SANDBOX_READY {
			n++
		}
	}
	return n
}

// delay waits as long as a start takes, and fails as often as starts are to fail.
func (r *Runtime) delay(ctx context.Context, what string) error {
	if d := r.options.StartDelay; d > 0 {
		timer := time.NewTimer(d + rand.N(d))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if rand.Float64() < r.options.FailureRate {
		return status.Errorf(codes.Unknown, "%s was made to fail", what)
	}
	return nil
}

func (r *Runtime) id(kind string) string {
	r.next++
	return fmt.Sprintf("%s-%d", kind, r.next)
}

// Version implements runtime.Runtime.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: runtimeName, RuntimeVersion: runtimeVersion, RuntimeApiVersion: "v1"}, nil
}

// Status implements runtime.Runtime.
func (r *Runtime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}}, nil
}

// RuntimeConfig implements runtime.Runtime.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// RunPodSandbox implements runtime.Runtime.
func (r *Runtime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	if err := r.delay(ctx, "the sandbox"); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes == nil {
		r.sandboxes, r.containers = map[string]*sandbox{}, map[string]*container{}
	}
	s := &sandbox{id: r.id("sandbox"), config: config, created: time.Now().UnixNano()}
	r.sandboxes[s.id] = s
	return s.id, nil
}

// StopPodSandbox implements runtime.Runtime.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		s.state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		for _, c := range r.containers {
			if c.sandbox == id {
				c.end()
			}
		}
	}
	return nil
}

// RemovePodSandbox implements runtime.Runtime.
func (r *Runtime) RemovePodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, id)
	for key, c := range r.containers {
		if c.sandbox == id {
			delete(r.containers, key)
		}
	}
	return nil
}

// PodSandboxStatus implements runtime.Runtime.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "there is no sandbox %s", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created, Labels: s.config.Labels, Annotations: s.config.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: r.options.PodIP},
	}}, nil
}

// ListPodSandbox implements runtime.Runtime.
func (r *Runtime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*runtimeapi.PodSandbox
	for _, s := range r.sandboxes {
		if matches(s.config.Labels, filter.GetLabelSelector()) && (filter.GetId() == "" || filter.GetId() == s.id) {
			list = append(list, &runtimeapi.PodSandbox{
				Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created, Labels: s.config.Labels, Annotations: s.config.Annotations,
			})
		}
	}
	return list, nil
}

// CreateContainer implements runtime.Runtime.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes[sandboxID] == nil {
		return "", status.Errorf(codes.NotFound, "there is no sandbox %s", sandboxID)
	}
	c := &container{
		id: r.id("container"), sandbox: sandboxID, config: config, state: runtimeapi.ContainerState_CONTAINER_CREATED,
		created: time.Now().UnixNano(), logPath: sandboxConfig.GetLogDirectory() + "/" + config.LogPath,
	}
	r.containers[c.id] = c
	return c.id, nil
}

// StartContainer implements runtime.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	if err := r.delay(ctx, "the container"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return status.Errorf(codes.NotFound, "there is no container %s", id)
	}
	c.state, c.started = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	return nil
}

// StopContainer implements runtime.Runtime.
func (r *Runtime) StopContainer(_ context.Context, id string, _ int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.end()
	}
	return nil
}

// end is what SIGTERM does to a process that does not handle it.
func (c *container) end() {
	if c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
		c.state, c.finished, c.exitCode, c.reason = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), 143, "Error"
	}
}

// RemoveContainer implements runtime.Runtime.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	return nil
}

// ContainerStatus implements runtime.Runtime.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "there is no container %s", id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created, StartedAt: c.started, FinishedAt: c.finished,
		ExitCode: c.exitCode, Reason: c.reason, Image: c.config.Image, ImageRef: c.config.GetImage().GetImage(),
		Labels: c.config.Labels, Annotations: c.config.Annotations, LogPath: c.logPath,
	}}, nil
}

// ListContainers implements runtime.Runtime.
func (r *Runtime) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*runtimeapi.Container
	for _, c := range r.containers {
		if matches(c.config.Labels, filter.GetLabelSelector()) && (filter.GetPodSandboxId() == "" || filter.GetPodSandboxId() == c.sandbox) {
			list = append(list, &runtimeapi.Container{
				Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: c.config.GetImage().GetImage(),
				State: c.state, CreatedAt: c.created, Labels: c.config.Labels, Annotations: c.config.Annotations,
			})
		}
	}
	return list, nil
}

func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// ImageStatus implements runtime.Runtime: every image is there.
func (r *Runtime) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: image.GetImage(), RepoTags: []string{image.GetImage()}}}, nil
}

// PullImage implements runtime.Runtime.
func (r *Runtime) PullImage(_ context.Context, image *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	return image.GetImage(), nil
}

// Close implements runtime.Runtime.
func (*Runtime) Close(context.Context) error { return nil }
