package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/pods"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/staticpod"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/pkg/version"
)

var _ uplink.Handler = &Agent{}

// connection is what belongs to the connection.
type connection struct {
	mu         sync.Mutex
	remembered memories

	// stop ends the sending of the outbox; sending is done when it has ended.
	stop    context.CancelFunc
	sending sync.WaitGroup
}

// memories are what the server said in its last Welcome and pods need when they are brought back
// after an offline reboot.
type memories struct {
	NodeName    string
	PodCapacity int32
	PodDNS      []byte // v1.PodDNSConfig
}

// recall reads the memories. A device that has none was never connected.
func (a *Agent) recall(ctx context.Context) (m memories) {
	data, err := os.ReadFile(filepath.Join(a.config.StateDir, fileMemories))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil && !os.IsNotExist(err) {
		err = fmt.Errorf("cannot read what the server said last, it will say it again: %w", err)
		klog.FromContext(ctx).Error(err, "A part of the state was lost")
		a.reportLoss(err)
	}
	return m
}

func (a *Agent) memorize(ctx context.Context, m memories) {
	data, err := json.Marshal(m)
	if err == nil {
		err = diskfile.Replace(filepath.Join(a.config.StateDir, fileMemories), data, true)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot keep what the server said; after a reboot without a link pods do not know it")
	}
}

// Hello implements uplink.Handler.
func (a *Agent) Hello(ctx context.Context) *edgeapi.Hello {
	a.outbox.dropNodeStatus() // it is in here
	status := a.node.Recent(ctx)
	a.pods.SetNode(a.nodeInfo()) // nodeChanged does not hear of a change that was found here
	return &edgeapi.Hello{
		AgentVersion: version.String(),
		Features:     []string{edgeapi.FeatureKeptVolumes, edgeapi.FeatureKeptRuntimeHandler},
		NodeStatus:   encodeNode(status),
		Pods:         a.pods.Digests(),
	}
}

func encodeNode(status *v1.NodeStatus) *edgeapi.NodeStatus {
	data, err := status.Marshal()
	if err != nil { // cannot happen: it holds only what this program put there
		klog.Background().Error(err, "Cannot encode the status of the node")
		return nil
	}
	return &edgeapi.NodeStatus{Status: data}
}

// Connected implements uplink.Handler.
func (a *Agent) Connected(ctx context.Context, welcome *edgeapi.Welcome, send uplink.Sender) {
	klog.FromContext(ctx).V(2).Info("Welcome", "node", welcome.GetNodeName(), "podCapacity", welcome.GetPodCapacity(), "hostPolicy", welcome.GetHostPolicy())
	a.welcomed(ctx, welcome)
	a.outbox.wantStatic(slices.Contains(welcome.GetFeatures(), staticpod.Feature))
	a.pods.ResendStatuses()
	drainCtx, stop := context.WithCancel(ctx)
	a.link.stop = stop
	a.link.sending.Go(func() { a.outbox.drain(drainCtx, send) })
}

// welcomed takes over what the server says about the device, at first and whenever it changes.
func (a *Agent) welcomed(ctx context.Context, welcome *edgeapi.Welcome) {
	a.host.SetCloudPolicy(welcome.GetHostPolicy())
	a.stats.SetNodeName(welcome.GetNodeName())
	now := memories{NodeName: welcome.GetNodeName(), PodCapacity: welcome.GetPodCapacity(), PodDNS: welcome.GetPodDns()}
	a.link.mu.Lock()
	before := a.link.remembered
	a.link.remembered = now
	a.link.mu.Unlock()
	if before.NodeName != now.NodeName || before.PodCapacity != now.PodCapacity || string(before.PodDNS) != string(now.PodDNS) {
		a.memorize(ctx, now)
	}
	a.node.SetPodCapacity(now.PodCapacity)
	a.pods.SetNode(a.nodeInfo())
}

// nodeInfo is what pods may know of the device.
func (a *Agent) nodeInfo() pods.NodeInfo {
	a.link.mu.Lock()
	m := a.link.remembered
	a.link.mu.Unlock()
	info := pods.NodeInfo{Name: m.NodeName, HostIPs: a.node.HostIPs()}
	if status := a.node.Status(); status != nil {
		info.Capacity, info.Allocatable = status.Capacity, maps.Clone(status.Allocatable)
		if m.PodCapacity > 0 { // at once: pods may follow on the heels of the Welcome that says it
			info.Allocatable[v1.ResourcePods] = *resource.NewQuantity(int64(m.PodCapacity), resource.DecimalSI)
		}
	}
	info.PodDNS = &v1.PodDNSConfig{}
	if err := info.PodDNS.Unmarshal(m.PodDNS); err != nil {
		klog.Background().Error(err, "Cannot read the DNS configuration of pods; they use the device's own resolver")
		info.PodDNS = &v1.PodDNSConfig{}
	}
	return info
}

// Message implements uplink.Handler.
func (a *Agent) Message(message *edgeapi.ServerMessage) {
	switch m := message.GetMessage().(type) {
	case *edgeapi.ServerMessage_DesiredPods:
		a.pods.Desired(m.DesiredPods)
	case *edgeapi.ServerMessage_RunPod:
		a.pods.RunPod(m.RunPod)
	case *edgeapi.ServerMessage_UpdateVolumes:
		a.pods.UpdateVolumes(m.UpdateVolumes)
	case *edgeapi.ServerMessage_DeletePod:
		a.pods.DeletePod(m.DeletePod)
	case *edgeapi.ServerMessage_Welcome:
		a.welcomed(context.Background(), m.Welcome)
	default:
		// A message from a newer server, which this agent did not announce to know.
		klog.Background().V(2).Info("Ignoring a message of an unknown kind")
	}
}

// Disconnected implements uplink.Handler.
func (a *Agent) Disconnected(error) {
	a.link.stop()
	a.link.sending.Wait()
	a.host.SetCloudPolicy(nil)
}

// Stream implements uplink.Handler.
func (a *Agent) Stream(ctx context.Context, request *edgeapi.OpenStream, s *stream.Stream) {
	a.host.Serve(ctx, request, s)
}

// Usage implements uplink.Handler.
func (a *Agent) Usage() (cpuNanoCores, memoryBytes uint64) { return a.stats.Usage() }
