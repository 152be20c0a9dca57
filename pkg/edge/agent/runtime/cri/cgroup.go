package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RuntimeConfig says above all which cgroup driver is in use. Runtimes from before that call existed
// tell it in the verbose part of their status.
func (c *client) RuntimeConfig(ctx context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	s, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	config, err := s.RuntimeConfig(ctx)
	if status.Code(err) != codes.Unimplemented {
		return config, err
	}
	verbose, err := s.Status(ctx, true)
	if err != nil {
		return nil, err
	}
	driver, err := cgroupDriver(verbose.GetInfo()["config"])
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// cgroupDriver reads the driver from containerd's configuration as its status gives it.
func cgroupDriver(info string) (runtimeapi.CgroupDriver, error) {
	if info == "" {
		return runtimeapi.CgroupDriver_CGROUPFS, nil
	}
	var config struct {
		SystemdCgroup bool `json:"systemdCgroup"`
		Containerd    struct {
			DefaultRuntimeName string `json:"defaultRuntimeName"`
			Runtimes           map[string]struct {
				Options struct {
					SystemdCgroup bool `json:"SystemdCgroup"`
				} `json:"options"`
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if err := json.Unmarshal([]byte(info), &config); err != nil {
		return 0, fmt.Errorf("configuration in the runtime's status: %w", err)
	}
	runtime := config.Containerd.Runtimes[config.Containerd.DefaultRuntimeName]
	if config.SystemdCgroup || runtime.Options.SystemdCgroup {
		return runtimeapi.CgroupDriver_SYSTEMD, nil
	}
	return runtimeapi.CgroupDriver_CGROUPFS, nil
}
