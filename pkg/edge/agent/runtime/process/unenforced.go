package process

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Unenforced names the settings of a container that have no effect here, as it has the host's kernel,
// files and network like any other program. The user is to know: what is refused in place of being
// ignored is only what would make the program go wrong.
func (r *Runtime) Unenforced(config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) []string {
	var names []string
	add := func(ignored bool, name string) {
		if ignored {
			names = append(names, name)
		}
	}
	resources, sc := config.GetLinux().GetResources(), config.GetLinux().GetSecurityContext()
	add(resources.GetCpuQuota() > 0 || resources.GetMemoryLimitInBytes() > 0, "resources.limits")
	add(sc.GetPrivileged(), "privileged")
	add(sc.GetReadonlyRootfs(), "readOnlyRootFilesystem")
	add(len(sc.GetCapabilities().GetAddCapabilities())+len(sc.GetCapabilities().GetDropCapabilities()) > 0, "capabilities")
	add(confines(sc.GetSeccomp()), "seccompProfile")
	add(confines(sc.GetApparmor()), "appArmorProfile")
	add(sc.GetSelinuxOptions() != nil, "seLinuxOptions")
	add(len(sandbox.GetLinux().GetSysctls()) > 0, "sysctls")
	mapped := false
	for _, p := range sandbox.GetPortMappings() {
		mapped = mapped || (p.HostPort != 0 && p.HostPort != p.ContainerPort)
	}
	add(mapped, "hostPort")
	return names
}

func confines(profile *runtimeapi.SecurityProfile) bool {
	return profile != nil && profile.ProfileType != runtimeapi.SecurityProfile_Unconfined
}
