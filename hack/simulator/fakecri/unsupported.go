package fakecri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

// unsupported answers what has no meaning without processes and disks: with nothing to list, and with
// an error where something is asked for.
type unsupported struct{ runtime.Unsupported }

func (unsupported) UpdateContainerResources(context.Context, string, *runtimeapi.ContainerResources) error {
	return nil
}

// ExecSync succeeds, so that probes do.
func (unsupported) ExecSync(context.Context, string, []string, time.Duration) (stdout, stderr []byte, err error) {
	return nil, nil, nil
}

func (unsupported) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return nil, errNothingRuns
}

func (unsupported) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return nil, errNothingRuns
}

func (unsupported) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return nil, errNothingRuns
}

func (unsupported) ReopenContainerLog(context.Context, string) error { return nil }

func (unsupported) ContainerStats(context.Context, string) (*runtimeapi.ContainerStats, error) {
	return nil, errNothingRuns
}

func (unsupported) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, nil
}

func (unsupported) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, nil
}

func (unsupported) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, nil
}

func (unsupported) RemoveImage(context.Context, *runtimeapi.ImageSpec) error { return nil }

func (unsupported) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

func (unsupported) ExecStream(context.Context, string, []string, runtime.IO) error {
	return errNothingRuns
}

func (unsupported) AttachStream(context.Context, string, runtime.IO) error { return errNothingRuns }

func (unsupported) DialPod(context.Context, string, uint16) (runtime.Conn, error) {
	return nil, errNothingRuns
}
