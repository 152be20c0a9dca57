package pods

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Reasons why a pod is refused because this device cannot give what it asks for. The first three are
// the kubelet's.
const (
	reasonSysctl             = "SysctlForbidden"
	reasonAppArmor           = "AppArmor"
	reasonSupplementalGroups = "SupplementalGroupsPolicyNotSupported"
	reasonUnsupported        = "UnsupportedByDevice"
)

// safeSysctls are those that touch nothing beyond the pod, by the kubelet's list. A kernel that is too old for one, up
// to 4.15, does not have it in the pod's network: the runtime then says that it cannot make the sandbox.
var safeSysctls = sets.New(
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
	"net.ipv4.tcp_slow_start_after_idle",
	"net.ipv4.tcp_notsent_lowat",
)

// apparmorEnabled tells whether the kernel enforces AppArmor profiles.
var apparmorEnabled = sync.OnceValue(func() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
})

// unsupported says why a pod cannot run on this device, whatever its owner permits; the reason is empty
// if it can. What only concerns one volume or container is refused where that is made, and may be
// corrected there.
func unsupported(pod *v1.Pod, features criconfig.Features) (reason, message string) {
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, sysctl := range sc.Sysctls {
			if err := checkSysctl(&pod.Spec, strings.ReplaceAll(sysctl.Name, "/", ".")); err != nil {
				return reasonSysctl, "forbidden sysctl: " + err.Error()
			}
		}
		if ptr.Deref(sc.SupplementalGroupsPolicy, v1.SupplementalGroupsPolicyMerge) == v1.SupplementalGroupsPolicyStrict && !features.SupplementalGroupsPolicy {
			return reasonSupplementalGroups, "SupplementalGroupsPolicy=Strict is not supported in this node"
		}
	}
	if !apparmorEnabled() && wantsAppArmor(pod) {
		return reasonAppArmor, "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return reasonUnsupported, "the pod has resourceClaims: edge devices have no drivers for dynamic resources"
	}
	for i := range pod.Spec.Volumes {
		if volume := &pod.Spec.Volumes[i]; hasFileUser(volume) {
			return reasonUnsupported, fmt.Sprintf("volume %q names a user for its files (user or defaultUser), which is not supported: use fsGroup", volume.Name)
		}
	}
	return "", ""
}

func checkSysctl(spec *v1.PodSpec, name string) error {
	switch {
	case !safeSysctls.Has(name):
		return fmt.Errorf("%q not allowlisted", name)
	case spec.HostIPC && strings.HasPrefix(name, "kernel."):
		return fmt.Errorf("%q not allowed with host ipc enabled", name)
	case spec.HostNetwork && strings.HasPrefix(name, "net."):
		return fmt.Errorf("%q not allowed with host net enabled", name)
	}
	return nil
}

func wantsAppArmor(pod *v1.Pod) bool {
	for c := range podutil.Containers(pod) {
		if profile := criconfig.AppArmorProfile(pod, c); profile != nil && profile.Type != v1.AppArmorProfileTypeUnconfined {
			return true
		}
	}
	return false
}

// hasFileUser tells whether a volume gives its files to a user by an alpha field of the API.
func hasFileUser(volume *v1.Volume) bool {
	keys := func(items []v1.KeyToPath) bool {
		return slices.ContainsFunc(items, func(item v1.KeyToPath) bool { return item.User != nil })
	}
	downward := func(items []v1.DownwardAPIVolumeFile) bool {
		return slices.ContainsFunc(items, func(item v1.DownwardAPIVolumeFile) bool { return item.User != nil })
	}
	switch {
	case volume.ConfigMap != nil:
		return volume.ConfigMap.DefaultUser != nil || keys(volume.ConfigMap.Items)
	case volume.Secret != nil:
		return volume.Secret.DefaultUser != nil || keys(volume.Secret.Items)
	case volume.DownwardAPI != nil:
		return volume.DownwardAPI.DefaultUser != nil || downward(volume.DownwardAPI.Items)
	case volume.Projected == nil:
		return false
	}
	found := volume.Projected.DefaultUser != nil
	for _, s := range volume.Projected.Sources {
		found = found || (s.ConfigMap != nil && keys(s.ConfigMap.Items)) || (s.Secret != nil && keys(s.Secret.Items)) ||
			(s.DownwardAPI != nil && downward(s.DownwardAPI.Items)) || (s.ServiceAccountToken != nil && s.ServiceAccountToken.User != nil) ||
			(s.ClusterTrustBundle != nil && s.ClusterTrustBundle.User != nil)
	}
	return found
}

// learnFeatures asks the runtime what it can do, if the pod asks for something that not all can.
func (p *pass) learnFeatures(ctx context.Context) error {
	if !needsFeatures(p.pod) {
		return nil
	}
	status, err := p.w.m.cfg.Runtime.Status(logr.NewContext(ctx, logr.Discard()), false)
	if err != nil {
		return fmt.Errorf("%w: %w", errRuntimeDown, err)
	}
	p.node.Features.SupplementalGroupsPolicy = status.GetFeatures().GetSupplementalGroupsPolicy()
	p.node.Features.MountOptions = status.GetFeatures().GetMountOptions()
	for _, handler := range status.GetRuntimeHandlers() {
		if handler.GetName() == p.runtimeHandler() {
			p.node.Features.RecursiveReadOnly = handler.GetFeatures().GetRecursiveReadOnlyMounts()
		}
	}
	return nil
}

func needsFeatures(pod *v1.Pod) bool {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		return true
	}
	for c := range podutil.Containers(pod) {
		for i := range c.VolumeMounts {
			if c.VolumeMounts[i].RecursiveReadOnly != nil || len(c.VolumeMounts[i].BindMountOptions) > 0 {
				return true
			}
		}
	}
	return false
}
