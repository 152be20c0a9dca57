package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// sandbox is a pod: a record, as there is nothing to set up. Its fields are guarded by Runtime.mu.
type sandbox struct {
	id        string
	config    *runtimeapi.PodSandboxConfig
	createdAt int64
	ready     bool
}

// sandboxRecord is a sandbox on disk.
type sandboxRecord struct {
	ID        string
	Config    []byte // PodSandboxConfig
	CreatedAt int64
	Ready     bool
	// BootID of the boot in which it was ready: a reboot ends every sandbox.
	BootID string
}

func (r *Runtime) sandboxPath(id string) string {
	return filepath.Join(r.sandboxDir(), id+".json")
}

func (r *Runtime) loadSandbox(file string) (*sandbox, error) {
	record := sandboxRecord{}
	if err := readRecord(filepath.Join(r.sandboxDir(), file), &record); err != nil {
		return nil, err
	}
	if id := strings.TrimSuffix(file, ".json"); !validID(id) || id != record.ID {
		return nil, fmt.Errorf("%s is not the record of a sandbox", file)
	}
	s := &sandbox{id: record.ID, config: &runtimeapi.PodSandboxConfig{}, createdAt: record.CreatedAt}
	if err := proto.Unmarshal(record.Config, s.config); err != nil {
		return nil, err
	}
	s.ready = record.Ready && record.BootID == shim.BootID()
	return s, nil
}

func (r *Runtime) saveSandbox(s *sandbox) error {
	config, err := proto.Marshal(s.config)
	if err != nil {
		return err
	}
	return writeRecord(r.sandboxPath(s.id), sandboxRecord{
		ID: s.id, Config: config, CreatedAt: s.createdAt, Ready: s.ready, BootID: shim.BootID(),
	})
}

// RunPodSandbox is a CRI call.
func (r *Runtime) RunPodSandbox(_ context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if handler != "" {
		return "", status.Errorf(codes.InvalidArgument, "the process runtime has no handler %q: remove runtimeClassName from the pod", handler)
	}
	if config.GetMetadata() == nil {
		return "", status.Error(codes.InvalidArgument, "a sandbox needs metadata")
	}
	s := &sandbox{id: newID(), config: proto.Clone(config).(*runtimeapi.PodSandboxConfig), createdAt: now(), ready: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.sandboxes {
		if m, o := config.Metadata, other.config.Metadata; m.Uid == o.Uid && m.Attempt == o.Attempt && m.Name == o.Name && m.Namespace == o.Namespace {
			return "", status.Errorf(codes.AlreadyExists, "attempt %d of pod %s/%s has the sandbox %s", m.Attempt, m.Namespace, m.Name, other.id)
		}
	}
	if dir := config.LogDirectory; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", status.Errorf(codes.Internal, "cannot make the log directory: %v", err)
		}
	}
	if err := r.saveSandbox(s); err != nil {
		return "", status.Errorf(codes.Internal, "%v", err)
	}
	r.sandboxes[s.id] = s
	return s.id, nil
}

// StopPodSandbox is a CRI call. It ends what still runs at once: the grace period was the caller's.
func (r *Runtime) StopPodSandbox(ctx context.Context, id string) error {
	for _, c := range r.containersOf(id) {
		if err := r.stop(ctx, c, 0); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[id]
	if !ok || !s.ready {
		return nil
	}
	s.ready = false
	if err := r.saveSandbox(s); err != nil {
		// A pod must end on a full disk too, to make room. Its sandbox is ready again only for an agent that starts anew.
		r.logger.Error(err, "Cannot record the end of a sandbox", "id", id)
	}
	return nil
}

// RemovePodSandbox is a CRI call.
func (r *Runtime) RemovePodSandbox(ctx context.Context, id string) error {
	r.mu.Lock()
	if s, ok := r.sandboxes[id]; ok {
		s.ready = false // for no further container; there is no need to record it
	}
	r.mu.Unlock()
	for _, c := range r.containersOf(id) {
		if err := r.RemoveContainer(ctx, c.id); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.sandboxes[id]; !ok {
		return nil
	}
	if err := os.Remove(r.sandboxPath(id)); err != nil && !os.IsNotExist(err) {
		return status.Errorf(codes.Internal, "%v", err)
	}
	delete(r.sandboxes, id)
	return nil
}

// PodSandboxStatus is a CRI call.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[id]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "there is no sandbox %s", id)
	}
	st := &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.createdAt,
		Labels: s.config.Labels, Annotations: s.config.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
		}}},
	}
	if s.ready && r.options.HostIP != nil {
		st.Network.Ip = r.options.HostIP()
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: st, Timestamp: now()}, nil
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// ListPodSandbox is a CRI call.
func (r *Runtime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*runtimeapi.PodSandbox
	for _, s := range r.sandboxes {
		if !matchID(filter.GetId(), s.id) || !matchLabels(filter.GetLabelSelector(), s.config.Labels) {
			continue
		}
		if filter.GetState() != nil && filter.State.State != s.state() {
			continue
		}
		list = append(list, &runtimeapi.PodSandbox{
			Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.createdAt,
			Labels: s.config.Labels, Annotations: s.config.Annotations,
		})
	}
	return list, nil
}

// PortForward is a CRI call for a streaming server, which this runtime has no need of.
func (r *Runtime) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return nil, unsupported("streaming URLs; use DialPod")
}

// matchID accepts an id or, as other runtimes do, the beginning of one.
func matchID(want, id string) bool {
	return strings.HasPrefix(id, want)
}

func matchLabels(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}
