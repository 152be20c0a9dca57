// Package state reads what the runtime has of a pod: its sandboxes, its containers and how they ended.
// It changes nothing and knows no v1.Pod.
package state

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Pod is all that the runtime has of one pod at one moment.
type Pod struct {
	// Sandboxes, newest first.
	Sandboxes []*runtimeapi.PodSandboxStatus
	// Containers of all sandboxes, the instances of each newest first.
	Containers []*Container
}

// Container is one instance of a container.
type Container struct {
	ID, Name, SandboxID string
	State               runtimeapi.ContainerState
	// Hash of the spec it was made from, see podutil.HashContainer.
	Hash         uint64
	RestartCount int
	CreatedAt    time.Time
	// StartedAt is zero if it was never started.
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string
	// Message of the runtime, and what the container left behind as its last words.
	Message string
	// Image as it was asked for, ImageRef as the runtime resolved it.
	Image, ImageRef string
	LogPath         string
	// TerminationFile on the device is where it may leave its last words; empty if it may not.
	TerminationFile string
	User            *runtimeapi.ContainerUser
	// StopSignal is what the runtime stops it with, as far as it says so.
	StopSignal runtimeapi.Signal
}

// Running tells whether the container runs.
func (c *Container) Running() bool {
	return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

// Exited tells whether the container has ended.
func (c *Container) Exited() bool {
	return c.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

// Find returns the newest instance of a container, or nil.
func (p *Pod) Find(name string) *Container {
	for _, c := range p.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// FindExited returns the newest instance of a container that has ended, or nil.
func (p *Pod) FindExited(name string) *Container {
	for _, c := range p.Containers {
		if c.Name == name && c.Exited() {
			return c
		}
	}
	return nil
}

// FindActive returns the newest instance of a container in the newest sandbox, if that is ready.
func (p *Pod) FindActive(name string) *Container {
	sandbox := p.ReadySandbox()
	if sandbox == nil {
		return nil
	}
	for _, c := range p.Containers {
		if c.Name == name && c.SandboxID == sandbox.Id {
			return c
		}
	}
	return nil
}

// ReadySandbox returns the newest sandbox if it is ready, or nil.
func (p *Pod) ReadySandbox() *runtimeapi.PodSandboxStatus {
	if len(p.Sandboxes) == 0 || p.Sandboxes[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	return p.Sandboxes[0]
}

// IPs are the pod's addresses in its own network, at most one per family, of the given family first.
func (p *Pod) IPs(ipv6First bool) []string {
	sandbox := p.ReadySandbox()
	if sandbox == nil || sandbox.Network == nil {
		return nil
	}
	all := []string{sandbox.Network.Ip}
	for _, ip := range sandbox.Network.AdditionalIps {
		all = append(all, ip.Ip)
	}
	var v4, v6 string
	for _, s := range all {
		addr, err := netip.ParseAddr(s)
		switch {
		case err != nil:
		case addr.Unmap().Is4() && v4 == "":
			v4 = addr.Unmap().String()
		case addr.Is6() && !addr.Is4In6() && v6 == "":
			v6 = addr.String()
		}
	}
	ordered := []string{v4, v6}
	if ipv6First {
		ordered = []string{v6, v4}
	}
	var ips []string
	for _, ip := range ordered {
		if ip != "" {
			ips = append(ips, ip)
		}
	}
	return ips
}

// HostNetwork tells whether a sandbox is in the host's network: because the pod asked for it, or because
// the runtime knows no other.
func HostNetwork(sandbox *runtimeapi.PodSandboxStatus) bool {
	return sandbox.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// HasNetwork tells whether a sandbox has the address it needs.
func HasNetwork(sandbox *runtimeapi.PodSandboxStatus) bool {
	return HostNetwork(sandbox) || sandbox.Network == nil || sandbox.Network.Ip != ""
}

// AnyRunning tells whether a container runs, or may run.
func (p *Pod) AnyRunning() bool {
	for _, c := range p.Containers {
		if c.Running() || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			return true
		}
	}
	return false
}

// Reader reads pods' states. It remembers how containers ended, which does not change. It is for one
// pod and not for concurrent use.
type Reader struct {
	Runtime internalapi.RuntimeService
	Owner   string

	exited map[string]*Container
}

// Read returns the state of the pod. What is removed while it reads is left out.
func (r *Reader) Read(ctx context.Context, podUID string) (*Pod, error) {
	selector := map[string]string{types.KubernetesPodUIDLabel: podUID, podutil.LabelManagedBy: r.Owner}
	sandboxes, err := r.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	containers, err := r.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	pod := &Pod{}
	for _, sandbox := range sandboxes {
		resp, err := r.Runtime.PodSandboxStatus(ctx, sandbox.Id, false)
		if crierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		pod.Sandboxes = append(pod.Sandboxes, resp.Status)
	}
	exited := map[string]*Container{}
	for _, c := range containers {
		full, err := r.container(ctx, c)
		if crierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		if full.Exited() {
			exited[full.ID] = full
		}
		pod.Containers = append(pod.Containers, full)
	}
	r.exited = exited
	pod.sort()
	return pod, nil
}

// sort puts the newest first. Their numbers only grow; their times are those of a clock that may have been
// set back.
func (p *Pod) sort() {
	slices.SortStableFunc(p.Sandboxes, func(a, b *runtimeapi.PodSandboxStatus) int {
		return cmp.Or(cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
	})
	slices.SortStableFunc(p.Containers, func(a, b *Container) int {
		return cmp.Or(cmp.Compare(b.RestartCount, a.RestartCount), b.CreatedAt.Compare(a.CreatedAt))
	})
}

func (r *Reader) container(ctx context.Context, listed *runtimeapi.Container) (*Container, error) {
	if c := r.exited[listed.Id]; c != nil && listed.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		return c, nil
	}
	resp, err := r.Runtime.ContainerStatus(ctx, listed.Id, false)
	if err != nil {
		return nil, err
	}
	s := resp.Status
	c := &Container{
		ID:        s.Id,
		Name:      s.Labels[types.KubernetesContainerNameLabel],
		SandboxID: listed.PodSandboxId,
		State:     s.State,
		CreatedAt: time.Unix(0, s.CreatedAt),
		Image:     s.GetImage().GetImage(),
		ImageRef:  s.ImageRef,
		LogPath:   s.LogPath,
		User:      s.User,

		TerminationFile: terminationFile(s, s.Annotations[podutil.AnnotationTerminationMessagePath]),
		StopSignal:      s.StopSignal,
	}
	// What cannot be parsed was not written by this agent: zero, as for a new container.
	c.Hash, _ = strconv.ParseUint(s.Annotations[podutil.AnnotationHash], 16, 64)
	c.RestartCount, _ = strconv.Atoi(s.Annotations[podutil.AnnotationRestartCount])
	if s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		c.StartedAt = time.Unix(0, s.StartedAt)
	}
	if c.Exited() {
		c.FinishedAt = time.Unix(0, s.FinishedAt)
		c.ExitCode, c.Reason = s.ExitCode, s.Reason
		c.Message = clip.String(s.Message, maxMessage) // it may quote the command
		if last := lastWords(s, c.TerminationFile); last != "" {
			if c.Message != "" {
				c.Message += ": "
			}
			c.Message += last
		}
	}
	return c, nil
}

// lastWords returns the termination message of a container that has ended.
func lastWords(s *runtimeapi.ContainerStatus, file string) string {
	policy := v1.TerminationMessagePolicy(s.Annotations[podutil.AnnotationTerminationMessagePolicy])
	fallback := policy == v1.TerminationMessageFallbackToLogsOnError && s.ExitCode != 0 && s.Reason != "ContainerCannotRun"
	return terminationMessage(s, file, fallback)
}
