package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// Reasons in the status of a container that has ended.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"
)

// Exit codes that are not the command's own.
const (
	exitStartError = 128
	exitUnknown    = 255
)

// container is one container. What is constant is set before it is in Runtime.containers; op is held
// during a call that changes its state, mu guards the fields below it.
type container struct {
	id          string
	sandboxID   string
	dir         string
	config      *runtimeapi.ContainerConfig // without what may hold secrets
	createdAt   int64
	logPath     string
	user        *shim.User // nil: the agent's own
	mountPoints []string   // made on the host, for this container or before
	held        []*os.File // mount points, until the shim holds them; guarded by Runtime.mu
	op          sync.Mutex

	mu      sync.Mutex
	spec    *shim.Spec // until it is started
	started *shim.Started
	exit    *shim.Exit
	ended   chan struct{} // closed when exit is set
}

// containerRecord is a container on disk. The environment and the command line, where $(NAME) stands for it, are
// left out: they may hold secrets, and the shim alone needs them.
type containerRecord struct {
	ID          string
	SandboxID   string
	Config      []byte // ContainerConfig
	CreatedAt   int64
	LogPath     string
	User        *shim.User `json:",omitempty"`
	MountPoints []string
}

const fileContainer = "container.json"

func notFound(id string) error {
	return status.Errorf(codes.NotFound, "there is no container %s", id)
}

// loadContainer reads a container's record. The error is fs.ErrNotExist for one that was never
// started: what it should run was only known to the agent that created it.
func (r *Runtime) loadContainer(id string, deadline time.Time) (*container, error) {
	dir := filepath.Join(r.containersDir(), id)
	record := containerRecord{}
	if err := readRecord(filepath.Join(dir, fileContainer), &record); err != nil {
		return nil, err
	}
	if !validID(id) || record.ID != id {
		return nil, fmt.Errorf("%s is not the record of a container", dir)
	}
	c := &container{
		id: id, sandboxID: record.SandboxID, dir: dir, config: &runtimeapi.ContainerConfig{}, createdAt: record.CreatedAt,
		logPath: record.LogPath, user: record.User, mountPoints: record.MountPoints, ended: make(chan struct{}),
	}
	if err := proto.Unmarshal(record.Config, c.config); err != nil {
		return nil, err
	}
	if err := c.readOutcome(deadline); err != nil {
		return nil, err
	}
	return c, nil
}

// readOutcome reads what the shim recorded. A shim that was just being started when the agent ended
// gets the time to record that. With one that needs longer the container counts as running, as it may run
// already; see awaitStart.
func (c *container) readOutcome(deadline time.Time) error {
	for {
		alive := shim.Alive(c.dir)
		exit, err := shim.ReadExit(c.dir)
		if err == nil {
			c.exit = exit
			close(c.ended)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		started, err := shim.ReadStarted(c.dir)
		if err == nil {
			c.started = started
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || c.exit != nil {
			return diskfile.IgnoreNotExist(err)
		}
		if !alive {
			return err
		}
		if time.Now().After(deadline) {
			c.started = &shim.Started{At: time.Unix(0, c.createdAt)}
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *container) save() error {
	config, err := proto.Marshal(c.config)
	if err != nil {
		return err
	}
	return writeRecord(filepath.Join(c.dir, fileContainer), containerRecord{
		ID: c.id, SandboxID: c.sandboxID, Config: config, CreatedAt: c.createdAt, LogPath: c.logPath, User: c.user, MountPoints: c.mountPoints,
	})
}

func (r *Runtime) container(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return nil, notFound(id)
	}
	return c, nil
}

func (r *Runtime) containersOf(sandboxID string) (list []*container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.sandboxID == sandboxID {
			list = append(list, c)
		}
	}
	return list
}

// CreateContainer is a CRI call. Everything about the container that cannot work on this device is
// refused here, with a message for the pod's author.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if !isHostImage(config.GetImage().GetImage()) {
		return "", refuseImage(config.GetImage().GetImage())
	}
	r.mu.Lock()
	s, ok := r.sandboxes[sandboxID]
	r.mu.Unlock()
	if !ok {
		return "", status.Errorf(codes.NotFound, "there is no sandbox %s", sandboxID)
	}
	if config.GetMetadata() == nil {
		return "", status.Error(codes.InvalidArgument, "a container needs metadata")
	}
	spec, err := r.specOf(s, config)
	if err != nil {
		return "", status.Errorf(codes.InvalidArgument, "%v", err)
	}
	c := &container{id: newID(), sandboxID: sandboxID, createdAt: now(), logPath: spec.LogPath, user: spec.User, spec: spec, ended: make(chan struct{})}
	spec.ID = c.id
	c.dir = filepath.Join(r.containersDir(), c.id)
	c.config = proto.Clone(config).(*runtimeapi.ContainerConfig)
	c.config.Envs, c.config.Command, c.config.Args = nil, nil, nil
	if err := r.register(s, c); err != nil {
		return "", status.Errorf(codes.Internal, "%v", err)
	}
	return c.id, nil
}

// register makes the container's mount points and its record under the lock that removal takes too.
func (r *Runtime) register(s *sandbox, c *container) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !s.ready {
		return fmt.Errorf("the sandbox %s is not ready", s.id)
	}
	if err = r.makeMountPoints(c); err != nil {
		r.removeMountPoints(c)
		return err
	}
	if err = os.Mkdir(c.dir, 0o700); err == nil {
		err = c.save()
	}
	if err != nil {
		r.removeMountPoints(c)
		return errors.Join(err, os.RemoveAll(c.dir))
	}
	r.containers[c.id] = c
	return nil
}

// RemoveContainer is a CRI call.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c, err := r.container(id)
	if err != nil {
		return nil // removed already
	}
	if err := r.stop(ctx, c, 0); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.containers[id]; !ok {
		return nil
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return status.Errorf(codes.Internal, "cannot remove the container's files: %v", err)
	}
	delete(r.containers, id)
	r.removeMountPoints(c)
	return nil
}

// state returns the state of a container and what is known about its start and end.
func (c *container) state() (runtimeapi.ContainerState, *shim.Started, *shim.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.exit != nil:
		return runtimeapi.ContainerState_CONTAINER_EXITED, c.started, c.exit
	case c.started != nil:
		return runtimeapi.ContainerState_CONTAINER_RUNNING, c.started, nil
	default:
		return runtimeapi.ContainerState_CONTAINER_CREATED, nil, nil
	}
}

// ListContainers is a CRI call.
func (r *Runtime) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*runtimeapi.Container
	for _, c := range r.containers {
		if !matchID(filter.GetId(), c.id) || !matchID(filter.GetPodSandboxId(), c.sandboxID) || !matchLabels(filter.GetLabelSelector(), c.config.Labels) {
			continue
		}
		state, _, _ := c.state()
		if filter.GetState() != nil && filter.State.State != state {
			continue
		}
		list = append(list, &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.sandboxID, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: HostImage, ImageId: HostImage,
			State: state, CreatedAt: c.createdAt, Labels: c.config.Labels, Annotations: c.config.Annotations,
		})
	}
	return list, nil
}

// ContainerStatus is a CRI call.
func (r *Runtime) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	state, started, exit := c.state()
	st := &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: c.config.Metadata, State: state, CreatedAt: c.createdAt,
		Image: c.config.Image, ImageRef: HostImage, ImageId: HostImage,
		Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts, LogPath: c.logPath,
		StopSignal: c.config.StopSignal,
	}
	if c.user != nil {
		linux := &runtimeapi.LinuxContainerUser{Uid: int64(c.user.UID), Gid: int64(c.user.GID)}
		for _, g := range c.user.Groups {
			linux.SupplementalGroups = append(linux.SupplementalGroups, int64(g))
		}
		st.User = &runtimeapi.ContainerUser{Linux: linux}
	}
	response := &runtimeapi.ContainerStatusResponse{Status: st}
	if started != nil {
		st.StartedAt = started.At.UnixNano()
		if verbose {
			response.Info = map[string]string{"pid": fmt.Sprint(started.PID)}
		}
	}
	if exit != nil {
		st.FinishedAt, st.ExitCode, st.Reason, st.Message = exit.At.UnixNano(), exit.Code, exit.Reason, exit.Message
		if st.Reason == "" {
			st.Reason = reasonCompleted
			if exit.Code != 0 {
				st.Reason = reasonError
			}
		}
	}
	return response, nil
}
