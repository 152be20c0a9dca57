package process

import (
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestUnenforced(t *testing.T) {
	container := func(r *runtimeapi.LinuxContainerResources, sc *runtimeapi.LinuxContainerSecurityContext) *runtimeapi.ContainerConfig {
		return &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{Resources: r, SecurityContext: sc}}
	}
	unconfined := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	for _, tc := range []struct {
		name    string
		config  *runtimeapi.ContainerConfig
		sandbox *runtimeapi.PodSandboxConfig
		want    []string
	}{
		{name: "nothing", config: &runtimeapi.ContainerConfig{}},
		{name: "requests", config: container(&runtimeapi.LinuxContainerResources{CpuShares: 100}, &runtimeapi.LinuxContainerSecurityContext{Seccomp: unconfined, NoNewPrivs: true})},
		{name: "all", config: container(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1}, &runtimeapi.LinuxContainerSecurityContext{
			Privileged: true, ReadonlyRootfs: true, Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
			Seccomp: &runtimeapi.SecurityProfile{}, Apparmor: &runtimeapi.SecurityProfile{}, SelinuxOptions: &runtimeapi.SELinuxOption{}}),
			sandbox: &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"a": "b"}},
				PortMappings: []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 8080}}},
			want: []string{"resources.limits", "privileged", "readOnlyRootFilesystem", "capabilities", "seccompProfile", "appArmorProfile", "seLinuxOptions", "sysctls", "hostPort"}},
		{name: "the port itself", config: &runtimeapi.ContainerConfig{}, sandbox: &runtimeapi.PodSandboxConfig{PortMappings: []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80}, {ContainerPort: 9}}}},
	} {
		if got := (&Runtime{}).Unenforced(tc.config, tc.sandbox); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
