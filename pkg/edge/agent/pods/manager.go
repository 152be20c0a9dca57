package pods

import (
	"context"
	"errors"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// ErrNotFound says that a pod, or a container of it, is not on the device.
var ErrNotFound = errors.New("not found on this device")

// Manager runs the pods of a device. Its methods may be called concurrently and, Run excepted, do
// not block.
type Manager struct {
	cfg Config
}

// New reads the record of pods from the state directory. Nothing is started before Run.
func New(cfg Config) (*Manager, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg}, nil
}

// Run keeps the pods running until the context ends, and returns when all its goroutines are done.
// Containers stay as they are.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Desired removes every pod that is not listed.
func (m *Manager) Desired(d *edgeapi.DesiredPods) {}

// RunPod adds a pod or changes it.
func (m *Manager) RunPod(r *edgeapi.RunPod) {}

// UpdateVolumes replaces the content of volumes of a pod.
func (m *Manager) UpdateVolumes(u *edgeapi.UpdateVolumes) {}

// DeletePod stops and removes a pod. Sink.PodRemoved is called when nothing of it is left, at once
// if it is not known.
func (m *Manager) DeletePod(d *edgeapi.DeletePod) {}

// SetNode replaces what is known of the device.
func (m *Manager) SetNode(info NodeInfo) {}

// Digests lists every pod that the device holds.
func (m *Manager) Digests() []*edgeapi.PodDigest { return nil }

// ResendStatuses gives the last status of every pod to the Sink again, and PodRemoved for the pods
// whose removal was not followed by a DesiredPods without them.
func (m *Manager) ResendStatuses() {}

// ContainerID returns the runtime's id of the running container of that name, for exec and attach.
// The error is ErrNotFound, or says why the container is not running.
func (m *Manager) ContainerID(podUID, container string) (string, error) { return "", ErrNotFound }

// SandboxID returns the runtime's id of the pod's ready sandbox, for port-forward.
func (m *Manager) SandboxID(podUID string) (string, error) { return "", ErrNotFound }

// ContainerLog returns the path of a container's log and the runtime's id of that instance.
func (m *Manager) ContainerLog(podUID, container string, previous bool) (path, containerID string, err error) {
	return "", "", ErrNotFound
}
