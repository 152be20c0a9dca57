package pods

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

// maxCalls is more than any test has reason for.
const maxCalls = 50000

// fakeRuntime is a CRI in memory. A container runs until stop, end or a StopContainer.
type fakeRuntime struct {
	runtime.Runtime // nil: what a test does not expect panics

	clock clock.PassiveClock

	mu             sync.Mutex
	next           int
	down           error
	sandboxes      map[string]*runtimeapi.PodSandboxStatus
	containers     map[string]*fakeContainer
	images         map[string]bool
	sandboxErr     error
	createErr      error
	startErr       error
	startErrState  runtimeapi.ContainerState // of a container that cannot be started
	execErr        error
	execOutput     string
	reopenErr      error
	stopSandboxErr error
	removeErr      error
	updateErr      error
	updates        []*runtimeapi.LinuxContainerResources // by UpdateContainerResources
	memory         uint64                                // in use by each container
	unenforced     []string
	driver         runtimeapi.CgroupDriver
	parent         string // of the last sandbox
	calls          []string
	stops          []int64       // grace periods
	stopExit       int32         // how a container ends that is stopped
	stopBlock      chan struct{} // StopContainer waits for it, or for its context
	startBlock     chan struct{} // so does StartContainer
	pullBlock      chan struct{} // so does PullImage
	listBlock      chan struct{} // so does ListContainers of all pods, which then tells of what there was before
}

type fakeContainer struct {
	*runtimeapi.ContainerStatus
	sandbox string
}

func newFakeRuntime(c clock.PassiveClock) *fakeRuntime {
	return &fakeRuntime{clock: c, sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*fakeContainer{},
		images: map[string]bool{testImage: true}, stopExit: 137}
}

func (f *fakeRuntime) enter(call string) func() {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	if len(f.calls) > maxCalls {
		panic("the agent calls the runtime again and again, for which the clock of a bubble stands still")
	}
	return f.mu.Unlock
}

func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake"}, nil
}

func (f *fakeRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	defer f.enter("Status")()
	return &runtimeapi.StatusResponse{}, f.down
}

func (f *fakeRuntime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: f.driver}}, nil
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	defer f.enter("ListPodSandbox")()
	var out []*runtimeapi.PodSandbox
	for _, s := range f.sandboxes {
		if matches(s.Labels, filter.LabelSelector) {
			out = append(out, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, Labels: s.Labels, CreatedAt: s.CreatedAt})
		}
	}
	return out, f.down
}

func (f *fakeRuntime) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	out, block, err := f.listContainers(filter)
	if block != nil && filter.LabelSelector[types.KubernetesPodUIDLabel] == "" {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return out, err
}

func (f *fakeRuntime) listContainers(filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, chan struct{}, error) {
	defer f.enter("ListContainers")()
	var out []*runtimeapi.Container
	for _, c := range f.containers {
		if matches(c.Labels, filter.LabelSelector) {
			out = append(out, &runtimeapi.Container{Id: c.Id, PodSandboxId: c.sandbox, State: c.State, Labels: c.Labels, CreatedAt: c.CreatedAt})
		}
	}
	return out, f.listBlock, f.down
}

func (f *fakeRuntime) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, f.down
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	defer f.enter("PodSandboxStatus")()
	if s := f.sandboxes[id]; s != nil {
		return &runtimeapi.PodSandboxStatusResponse{Status: proto.Clone(s).(*runtimeapi.PodSandboxStatus)}, f.down
	}
	return nil, status.Error(codes.NotFound, id)
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	defer f.enter("ContainerStatus")()
	if c := f.containers[id]; c != nil {
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
			Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt,
			ExitCode: c.ExitCode, Image: c.Image, ImageRef: c.ImageRef, Reason: c.Reason, Labels: c.Labels, Annotations: c.Annotations,
			Mounts: c.Mounts, LogPath: c.LogPath,
		}}, f.down
	}
	return nil, status.Error(codes.NotFound, id)
}

func (f *fakeRuntime) RunPodSandbox(_ context.Context, config *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	defer f.enter("RunPodSandbox")()
	if f.sandboxErr != nil {
		return "", f.sandboxErr
	}
	f.next++
	f.parent = config.Linux.CgroupParent
	id := fmt.Sprintf("sandbox-%d", f.next)
	f.sandboxes[id] = &runtimeapi.PodSandboxStatus{Id: id, Metadata: config.Metadata, Labels: config.Labels, CreatedAt: f.clock.Now().UnixNano() + int64(f.next),
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2"}}
	return id, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, id string) error {
	defer f.enter("StopPodSandbox")()
	if f.stopSandboxErr != nil {
		return f.stopSandboxErr
	}
	if s := f.sandboxes[id]; s != nil {
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return nil
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, id string) error {
	defer f.enter("RemovePodSandbox")()
	delete(f.sandboxes, id)
	return nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, sandbox string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	defer f.enter("CreateContainer " + config.Metadata.Name)()
	if f.createErr != nil {
		return "", f.createErr
	}
	f.next++
	id := fmt.Sprintf("container-%d", f.next)
	f.containers[id] = &fakeContainer{sandbox: sandbox, ContainerStatus: &runtimeapi.ContainerStatus{
		Id: id, Metadata: config.Metadata, Image: config.Image, ImageRef: config.Image.Image, Labels: config.Labels, Annotations: config.Annotations,
		Mounts: config.Mounts, CreatedAt: f.clock.Now().UnixNano() + int64(f.next), LogPath: sandboxConfig.LogDirectory + "/" + config.LogPath,
	}}
	return id, nil
}

func (f *fakeRuntime) StartContainer(ctx context.Context, id string) error {
	f.mu.Lock()
	block := f.startBlock
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer f.enter("StartContainer")()
	c := f.containers[id]
	if f.startErr != nil {
		if c.State = f.startErrState; c.State == exited {
			c.FinishedAt, c.ExitCode, c.Reason = f.clock.Now().UnixNano(), 128, "StartError"
		}
		return f.startErr
	}
	c.State, c.StartedAt = running, f.clock.Now().UnixNano()
	return nil
}

func (f *fakeRuntime) StopContainer(ctx context.Context, id string, timeout int64) error {
	f.mu.Lock()
	f.calls = append(f.calls, "StopContainer")
	f.stops = append(f.stops, timeout)
	block, code := f.stopBlock, f.stopExit
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.end(id, code)
	return nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, id string) error {
	defer f.enter("RemoveContainer")()
	if f.removeErr != nil {
		return f.removeErr
	}
	delete(f.containers, id)
	return nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	defer f.enter("ImageStatus")()
	if f.images[image.Image] {
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: image.Image}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (f *fakeRuntime) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	f.mu.Lock()
	block := f.pullBlock
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	defer f.enter("PullImage")()
	f.images[image.Image] = true
	return image.Image, nil
}

func (f *fakeRuntime) ExecSync(context.Context, string, []string, time.Duration) (stdout, stderr []byte, err error) {
	defer f.enter("ExecSync")()
	return []byte(f.execOutput), nil, f.execErr
}

func (f *fakeRuntime) ReopenContainerLog(context.Context, string) error {
	defer f.enter("ReopenContainerLog")()
	return f.reopenErr
}

func (f *fakeRuntime) UpdateContainerResources(_ context.Context, _ string, r *runtimeapi.ContainerResources) error {
	defer f.enter("UpdateContainerResources")()
	if f.updateErr == nil {
		f.updates = append(f.updates, r.Linux)
	}
	return f.updateErr
}

func (f *fakeRuntime) ContainerStats(context.Context, string) (*runtimeapi.ContainerStats, error) {
	defer f.enter("ContainerStats")()
	return &runtimeapi.ContainerStats{Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: &runtimeapi.UInt64Value{Value: f.memory}}}, nil
}

// Unenforced is as the process runtime has it.
func (f *fakeRuntime) Unenforced(*runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig) []string {
	return f.unenforced
}

// end makes a container exit.
func (f *fakeRuntime) end(id string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil && c.State == running {
		c.State, c.ExitCode, c.FinishedAt = exited, code, f.clock.Now().UnixNano()
	}
}

// running returns the ids of the running containers by name.
func (f *fakeRuntime) running() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := map[string]string{}
	for id, c := range f.containers {
		if c.State == running {
			ids[c.Metadata.Name] = id
		}
	}
	return ids
}

func (f *fakeRuntime) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fakeRuntime) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// foreign adds a sandbox that another client of the runtime has made.
func (f *fakeRuntime) foreign(id string, labels map[string]string) {
	f.set(func() {
		f.sandboxes[id] = &runtimeapi.PodSandboxStatus{Id: id, Labels: labels, Metadata: &runtimeapi.PodSandboxMetadata{},
			Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.3"}, CreatedAt: time.Now().UnixNano()}
	})
}
