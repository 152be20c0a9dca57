package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
)

func TestUnsupported(t *testing.T) {
	sysctls := func(names ...string) *v1.PodSecurityContext {
		sc := &v1.PodSecurityContext{}
		for _, name := range names {
			sc.Sysctls = append(sc.Sysctls, v1.Sysctl{Name: name, Value: "1"})
		}
		return sc
	}
	strict := &v1.PodSecurityContext{SupplementalGroupsPolicy: ptr.To(v1.SupplementalGroupsPolicyStrict)}
	user := ptr.To[int64](7)
	const users = `volume "v" names a user for its files (user or defaultUser), which is not supported: use fsGroup`
	volume := func(source v1.VolumeSource) v1.PodSpec {
		return v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: source}}}
	}
	for _, tc := range []struct {
		name            string
		spec            v1.PodSpec
		features        criconfig.Features
		reason, message string
	}{
		{name: "nothing special", spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{}}},
		{name: "safe sysctls", spec: v1.PodSpec{SecurityContext: sysctls("net.ipv4.tcp_syncookies", "kernel/shm_rmid_forced")}},
		{name: "safe sysctls of 1.37", spec: v1.PodSpec{SecurityContext: sysctls("net.ipv4.tcp_slow_start_after_idle", "net/ipv4/tcp_notsent_lowat")}},
		{name: "unsafe sysctl", spec: v1.PodSpec{SecurityContext: sysctls("net.ipv4.tcp_syncookies", "net/core/somaxconn")},
			reason: "SysctlForbidden", message: `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{name: "sysctl of the host's network", spec: v1.PodSpec{HostNetwork: true, SecurityContext: sysctls("net.ipv4.tcp_syncookies")},
			reason: "SysctlForbidden", message: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		{name: "sysctl of the host's IPC", spec: v1.PodSpec{HostIPC: true, SecurityContext: sysctls("kernel.shm_rmid_forced")},
			reason: "SysctlForbidden", message: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
		{name: "strict groups", spec: v1.PodSpec{SecurityContext: strict},
			reason: "SupplementalGroupsPolicyNotSupported", message: "SupplementalGroupsPolicy=Strict is not supported in this node"},
		{name: "strict groups, runtime can", spec: v1.PodSpec{SecurityContext: strict}, features: criconfig.Features{SupplementalGroupsPolicy: true}},
		{name: "claims", spec: v1.PodSpec{ResourceClaims: []v1.PodResourceClaim{{Name: "gpu"}}},
			reason: "UnsupportedByDevice", message: "the pod has resourceClaims: edge devices have no drivers for dynamic resources"},
		{name: "user of a configMap", spec: volume(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{DefaultUser: user}}), reason: "UnsupportedByDevice", message: users},
		{name: "user of a key", spec: volume(v1.VolumeSource{Secret: &v1.SecretVolumeSource{Items: []v1.KeyToPath{{User: user}}}}), reason: "UnsupportedByDevice", message: users},
		{name: "user of a field", spec: volume(v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{User: user}}}}),
			reason: "UnsupportedByDevice", message: users},
		{name: "user of a token", spec: volume(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{User: user}}}}}), reason: "UnsupportedByDevice", message: users},
		{name: "files of nobody in particular", spec: volume(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{}}, {DownwardAPI: &v1.DownwardAPIProjection{}}}}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reason, message := unsupported(&v1.Pod{Spec: tc.spec}, tc.features)
			if reason != tc.reason || message != tc.message {
				t.Errorf("got %q, %q; want %q, %q", reason, message, tc.reason, tc.message)
			}
		})
	}
}

// TestAppArmor asks the kernel of the machine that the test runs on.
func TestAppArmor(t *testing.T) {
	profile := func(kind v1.AppArmorProfileType) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{
			SecurityContext: &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: kind}}, Containers: []v1.Container{{Name: "c"}},
		}}
	}
	if reason, _ := unsupported(profile(v1.AppArmorProfileTypeUnconfined), criconfig.Features{}); reason != "" {
		t.Errorf("unconfined: refused for %s", reason)
	}
	reason, message := unsupported(profile(v1.AppArmorProfileTypeRuntimeDefault), criconfig.Features{})
	if apparmorEnabled() {
		if reason != "" {
			t.Errorf("refused though the kernel has AppArmor: %s", message)
		}
	} else if reason != "AppArmor" || message != "Cannot enforce AppArmor: AppArmor is not enabled on the host" {
		t.Errorf("got %q, %q", reason, message)
	}
}

func TestNeedsFeatures(t *testing.T) {
	pod := newPod("p", v1.Container{VolumeMounts: []v1.VolumeMount{{ReadOnly: true}}})
	if needsFeatures(pod) {
		t.Error("an ordinary pod makes the agent ask the runtime")
	}
	pod.Spec.Containers[0].VolumeMounts[0].RecursiveReadOnly = ptr.To(v1.RecursiveReadOnlyIfPossible)
	if !needsFeatures(pod) {
		t.Error("what a runtime can do matters to a recursive mount")
	}
}
