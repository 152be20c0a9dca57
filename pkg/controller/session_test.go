package controller

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
)

// session is a link without a device behind it: it keeps what is sent.
type session struct {
	device gateway.Device
	hello  *edgeapi.Hello
	done   chan struct{}
	once   sync.Once

	mu   sync.Mutex
	busy int // so many messages are refused
	// tooLarge refuses all pods.
	tooLarge bool
	sent     []*edgeapi.ServerMessage
}

func newSession(ed *aranya.EdgeDevice, held ...*edgeapi.PodDigest) *session {
	return &session{
		device: gateway.Device{Namespace: ed.Namespace, Name: ed.Name, UID: ed.UID},
		hello:  &edgeapi.Hello{AgentVersion: "v1.2.3", NodeStatus: nodeStatus("6.1.0"), Pods: held},
		done:   make(chan struct{}),
	}
}

func nodeStatus(kernel string, conditions ...corev1.NodeCondition) *edgeapi.NodeStatus {
	status := corev1.NodeStatus{
		Capacity:    corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3"), corev1.ResourceMemory: resource.MustParse("900Mi")},
		NodeInfo:    corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "arm64", KernelVersion: kernel, KubeletVersion: "v1.37.2"},
		Conditions:  conditions,
		Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}},
	}
	data, err := status.Marshal()
	if err != nil {
		panic(err)
	}
	return &edgeapi.NodeStatus{Status: data}
}

func (s *session) Device() gateway.Device { return s.device }
func (s *session) Hello() *edgeapi.Hello  { return s.hello }
func (s *session) Done() <-chan struct{}  { return s.done }
func (s *session) Close(error)            { s.end() }
func (s *session) end()                   { s.once.Do(func() { close(s.done) }) }

func (s *session) Send(msg *edgeapi.ServerMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return gateway.ErrClosed
	default:
	}
	if s.busy > 0 {
		s.busy--
		return gateway.ErrBusy
	}
	if s.tooLarge && msg.GetRunPod() != nil {
		return gateway.ErrTooLarge
	}
	s.sent = append(s.sent, msg)
	return nil
}

func (s *session) OpenStream(context.Context, *edgeapi.OpenStream) (*stream.Stream, error) {
	return nil, gateway.ErrClosed
}

func (s *session) Info() gateway.Info {
	return gateway.Info{Method: "grpc", RemoteAddress: "198.51.100.9:4711", Replica: "test", LastSeen: time.Now()}
}

// messages returns what was sent of one kind.
func messages[T any](s *session, get func(*edgeapi.ServerMessage) *T) []*T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*T
	for _, m := range s.sent {
		if v := get(m); v != nil {
			found = append(found, v)
		}
	}
	return found
}

func (s *session) desired() []*edgeapi.DesiredPods {
	return messages(s, (*edgeapi.ServerMessage).GetDesiredPods)
}
func (s *session) runs() []*edgeapi.RunPod { return messages(s, (*edgeapi.ServerMessage).GetRunPod) }
func (s *session) updates() []*edgeapi.UpdateVolumes {
	return messages(s, (*edgeapi.ServerMessage).GetUpdateVolumes)
}
func (s *session) deletes() []*edgeapi.DeletePod {
	return messages(s, (*edgeapi.ServerMessage).GetDeletePod)
}
