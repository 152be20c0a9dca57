package cri

// The methods of both CRI services that the agent calls, each on whatever connection there is at the moment.

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *client) Version(ctx context.Context, apiVersion string) (*runtimeapi.VersionResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.Version(ctx, apiVersion)
}

func (c *client) CreateContainer(ctx context.Context, podSandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return "", err
	}
	return s.CreateContainer(ctx, podSandboxID, config, sandboxConfig)
}

func (c *client) StartContainer(ctx context.Context, containerID string) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.StartContainer(ctx, containerID)
}

func (c *client) StopContainer(ctx context.Context, containerID string, timeout int64) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.StopContainer(ctx, containerID, timeout)
}

func (c *client) RemoveContainer(ctx context.Context, containerID string) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.RemoveContainer(ctx, containerID)
}

func (c *client) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ListContainers(ctx, filter)
}

func (c *client) ContainerStatus(ctx context.Context, containerID string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ContainerStatus(ctx, containerID, verbose)
}

func (c *client) UpdateContainerResources(ctx context.Context, containerID string, resources *runtimeapi.ContainerResources) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.UpdateContainerResources(ctx, containerID, resources)
}

func (c *client) ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, nil, err
	}
	return s.ExecSync(ctx, containerID, cmd, timeout)
}

func (c *client) Exec(ctx context.Context, request *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.Exec(ctx, request)
}

func (c *client) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.Attach(ctx, req)
}

func (c *client) ReopenContainerLog(ctx context.Context, containerID string) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.ReopenContainerLog(ctx, containerID)
}

func (c *client) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, runtimeHandler string) (string, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return "", err
	}
	return s.RunPodSandbox(ctx, config, runtimeHandler)
}

func (c *client) StopPodSandbox(ctx context.Context, podSandboxID string) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.StopPodSandbox(ctx, podSandboxID)
}

func (c *client) RemovePodSandbox(ctx context.Context, podSandboxID string) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.RemovePodSandbox(ctx, podSandboxID)
}

func (c *client) PodSandboxStatus(ctx context.Context, podSandboxID string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.PodSandboxStatus(ctx, podSandboxID, verbose)
}

func (c *client) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ListPodSandbox(ctx, filter)
}

func (c *client) PortForward(ctx context.Context, request *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.PortForward(ctx, request)
}

func (c *client) ContainerStats(ctx context.Context, containerID string) (*runtimeapi.ContainerStats, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ContainerStats(ctx, containerID)
}

func (c *client) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ListContainerStats(ctx, filter)
}

func (c *client) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.ListPodSandboxStats(ctx, filter)
}

func (c *client) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.Status(ctx, verbose)
}

func (c *client) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.images.ListImages(ctx, filter)
}

func (c *client) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.images.ImageStatus(ctx, image, verbose)
}

func (c *client) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, podSandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return "", err
	}
	return s.images.PullImage(ctx, image, auth, podSandboxConfig)
}

func (c *client) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return s.images.RemoveImage(ctx, image)
}

func (c *client) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return s.images.ImageFsInfo(ctx)
}
