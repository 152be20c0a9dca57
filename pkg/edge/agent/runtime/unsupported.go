package runtime

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Unsupported has the methods of the CRI that the agent never calls. A Runtime embeds it.
type Unsupported struct{}

func unsupported(method string) error {
	return status.Errorf(codes.Unimplemented, "the agent does not use the method %s of the CRI", method)
}

// UpdatePodSandboxResources is a CRI call.
func (Unsupported) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return nil, unsupported("UpdatePodSandboxResources")
}

// PodSandboxStats is a CRI call.
func (Unsupported) PodSandboxStats(context.Context, string) (*runtimeapi.PodSandboxStats, error) {
	return nil, unsupported("PodSandboxStats")
}

// CheckpointContainer is a CRI call.
func (Unsupported) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return unsupported("CheckpointContainer")
}

// CheckpointPod is a CRI call.
func (Unsupported) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) error {
	return unsupported("CheckpointPod")
}

// RestorePod is a CRI call.
func (Unsupported) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, unsupported("RestorePod")
}

// GetContainerEvents is a CRI call.
func (Unsupported) GetContainerEvents(context.Context, chan *runtimeapi.ContainerEventResponse, func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	return unsupported("GetContainerEvents")
}

// ListMetricDescriptors is a CRI call.
func (Unsupported) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, unsupported("ListMetricDescriptors")
}

// ListPodSandboxMetrics is a CRI call.
func (Unsupported) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, unsupported("ListPodSandboxMetrics")
}

// UpdateRuntimeConfig is a CRI call.
func (Unsupported) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error {
	return unsupported("UpdateRuntimeConfig")
}
