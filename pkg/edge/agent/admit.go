package agent

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// reasonForbidden is in the status of a pod that the device's own policy refuses.
const reasonForbidden = "ForbiddenByDevice"

// harmlessCapabilities may be added to any container: those of the "baseline" Pod Security Standard.
var harmlessCapabilities = sets.New[v1.Capability](
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)

// admitter refuses pods under the device's own policy.
func admitter(p *config.Policy) func(*v1.Pod) (reason, message string, ok bool) {
	return func(pod *v1.Pod) (reason, message string, ok bool) {
		if what, setting := forbidden(p, pod); what != "" {
			return reasonForbidden, fmt.Sprintf("the device's own policy forbids %s (%s in its arhat.yaml)", what, setting), false
		}
		return "", "", true
	}
}

// forbidden says what of a pod is not permitted, and by which setting.
func forbidden(p *config.Policy, pod *v1.Pod) (what, setting string) {
	if !ptr.Deref(p.HostNetwork, false) {
		if what := network(pod); what != "" {
			return what, "policy.hostNetwork"
		}
	}
	if !ptr.Deref(p.PrivilegedPods, false) {
		if what := privileges(pod); what != "" {
			return what, "policy.privilegedPods"
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.HostPath == nil {
			continue
		}
		if !hostPathAllowed(p, volume.HostPath.Path) {
			return fmt.Sprintf("the hostPath %s of volume %q", volume.HostPath.Path, volume.Name), "policy.hostPaths"
		}
	}
	return "", ""
}

// hostPaths is the policy about hostPath volumes; nil if they may be anywhere.
func hostPaths(p *config.Policy) func(path string) bool {
	if p.AllowsHostPath("/") {
		return nil
	}
	return p.AllowsHostPath
}

// hostPathAllowed looks through symbolic links: one inside an allowed directory may lead out of it.
func hostPathAllowed(p *config.Policy, path string) bool {
	path = filepath.Clean(path)
	if !p.AllowsHostPath(path) {
		return false
	}
	existing, missing, err := shim.NearestExisting(path)
	if err != nil {
		return false
	}
	return p.AllowsHostPath(filepath.Join(append([]string{existing}, missing...)...))
}

// network names what would use the device's network as the device itself does, if anything would. The agent, which asks
// for probes and hooks, reaches the device's loopback and whatever the device reaches.
func network(pod *v1.Pod) string {
	if pod.Spec.HostNetwork {
		return "pods in the device's network (hostNetwork)"
	}
	for c := range podutil.Containers(pod) {
		if host := askedHost(c); host != "" {
			return fmt.Sprintf("probes and hooks that name a host (%q, container %q)", host, c.Name)
		}
	}
	return ""
}

// askedHost is a host that a probe or hook of the container names, instead of going to the pod; empty if none does.
func askedHost(c *v1.Container) (host string) {
	look := func(get *v1.HTTPGetAction, dial *v1.TCPSocketAction) {
		if get != nil {
			host = cmp.Or(host, get.Host)
		}
		if dial != nil {
			host = cmp.Or(host, dial.Host)
		}
	}
	for _, probe := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe != nil {
			look(probe.HTTPGet, probe.TCPSocket)
		}
	}
	if c.Lifecycle != nil {
		for _, hook := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				look(hook.HTTPGet, hook.TCPSocket)
			}
		}
	}
	return host
}

// privileges names what makes a pod more powerful than the baseline allows, if anything does.
func privileges(pod *v1.Pod) string {
	switch {
	case pod.Spec.HostPID:
		return "pods that see the device's processes (hostPID)"
	case pod.Spec.HostIPC:
		return "pods in the device's IPC namespace (hostIPC)"
	}
	contexts := map[string]*v1.SecurityContext{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		contexts[c.Name] = c.SecurityContext
	}
	for _, c := range pod.Spec.EphemeralContainers {
		contexts[c.Name] = c.SecurityContext
	}
	for name, sc := range contexts {
		if sc == nil {
			continue
		}
		if ptr.Deref(sc.Privileged, false) {
			return fmt.Sprintf("privileged containers (%q)", name)
		}
		if ptr.Deref(sc.ProcMount, v1.DefaultProcMount) == v1.UnmaskedProcMount {
			return fmt.Sprintf("an unmasked /proc (container %q)", name)
		}
		if sc.Capabilities == nil {
			continue
		}
		for _, capability := range sc.Capabilities.Add {
			if !harmlessCapabilities.Has(v1.Capability(strings.TrimPrefix(strings.ToUpper(string(capability)), "CAP_"))) {
				return fmt.Sprintf("the added capability %s (container %q)", capability, name)
			}
		}
	}
	return ""
}
