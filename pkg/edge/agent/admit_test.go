package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

func TestAdmit(t *testing.T) {
	allowed := t.TempDir()
	resolved, err := filepath.EvalSymlinks(allowed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(allowed, "escape")); err != nil {
		t.Fatal(err)
	}
	hostPath := func(path string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}}}
		}
	}
	security := func(sc *v1.SecurityContext) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].SecurityContext = sc }
	}
	capability := func(name v1.Capability) func(*v1.Pod) {
		return security(&v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{name}}})
	}
	paths := func(list ...string) func(*config.Policy) { return func(p *config.Policy) { p.HostPaths = list } }
	ownNetwork := func(p *config.Policy) { p.HostNetwork = ptr.To(false) }
	get := func(host string) v1.ProbeHandler { return v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Host: host}} }
	probe := func(h v1.ProbeHandler) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].ReadinessProbe = &v1.Probe{ProbeHandler: h} }
	}
	hook := func(host string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Host: host}}
	}
	hooks := func(l v1.Lifecycle) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Containers[0].Lifecycle = &l } }
	everything := func(p *config.Policy) { p.PrivilegedPods = ptr.To(true) }
	for name, tt := range map[string]struct {
		policy func(*config.Policy)
		change func(*v1.Pod)
		want   string // empty: admitted
	}{
		"plain":              {nil, nil, ""},
		"privileged":         {nil, security(&v1.SecurityContext{Privileged: ptr.To(true)}), "policy.privilegedPods"},
		"privileged allowed": {everything, security(&v1.SecurityContext{Privileged: ptr.To(true)}), ""},
		"privileged init": {nil, func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "i", SecurityContext: &v1.SecurityContext{Privileged: ptr.To(true)}}}
		}, "policy.privilegedPods"},
		"privileged debug": {nil, func(p *v1.Pod) {
			p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e", SecurityContext: &v1.SecurityContext{Privileged: ptr.To(true)}}}}
		}, "policy.privilegedPods"},
		"hostPID":                {nil, func(p *v1.Pod) { p.Spec.HostPID = true }, "policy.privilegedPods"},
		"hostIPC":                {nil, func(p *v1.Pod) { p.Spec.HostIPC = true }, "policy.privilegedPods"},
		"unmasked proc":          {nil, security(&v1.SecurityContext{ProcMount: ptr.To(v1.UnmaskedProcMount)}), "policy.privilegedPods"},
		"capability":             {nil, capability("SYS_ADMIN"), "policy.privilegedPods"},
		"capability with prefix": {nil, capability("CAP_NET_BIND_SERVICE"), ""},
		"capability allowed":     {everything, capability("SYS_ADMIN"), ""},
		"host network":           {nil, func(p *v1.Pod) { p.Spec.HostNetwork = true }, ""},
		"host network forbidden": {ownNetwork, func(p *v1.Pod) { p.Spec.HostNetwork = true }, "policy.hostNetwork"},
		"httpGet of the pod":     {ownNetwork, probe(get("")), ""},
		"httpGet of a host":      {ownNetwork, probe(get("127.0.0.1")), "policy.hostNetwork"},
		"host permitted":         {nil, probe(get("127.0.0.1")), ""},
		"tcpSocket of the pod":   {ownNetwork, probe(v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}), ""},
		"tcpSocket of a host":    {ownNetwork, probe(v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Host: "plc.local"}}), "policy.hostNetwork"},
		"liveness of a host": {ownNetwork, func(p *v1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &v1.Probe{ProbeHandler: get("plc.local")}
		}, "policy.hostNetwork"},
		"startup of a host, sidecar": {ownNetwork, func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "i", StartupProbe: &v1.Probe{ProbeHandler: get("plc.local")}}}
		}, "policy.hostNetwork"},
		"postStart of the pod":  {ownNetwork, hooks(v1.Lifecycle{PostStart: hook("")}), ""},
		"postStart of a host":   {ownNetwork, hooks(v1.Lifecycle{PostStart: hook("plc.local")}), "policy.hostNetwork"},
		"preStop of a host":     {ownNetwork, hooks(v1.Lifecycle{PreStop: hook("plc.local")}), "policy.hostNetwork"},
		"hostPath":              {nil, hostPath("/etc"), "policy.hostPaths"},
		"hostPath all":          {paths("/"), hostPath("/etc"), ""},
		"hostPath below":        {paths(resolved), hostPath(resolved + "/new/data"), ""},
		"hostPath beside":       {paths(resolved), hostPath(resolved + "-other"), "policy.hostPaths"},
		"hostPath dots":         {paths(resolved), hostPath(resolved + "/../x"), "policy.hostPaths"},
		"hostPath link":         {paths(resolved), hostPath(resolved + "/escape"), "policy.hostPaths"},
		"hostPath through link": {paths(resolved), hostPath(resolved + "/escape/new"), "policy.hostPaths"},
		"emptyDir": {nil, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.New()
			c.Server = "localhost:1"
			if tt.policy != nil {
				tt.policy(&c.Policy)
			}
			if err := c.Finish(); err != nil {
				t.Fatal(err)
			}
			pod := hostPod("p", "true")
			if tt.change != nil {
				tt.change(pod)
			}
			reason, message, ok := admitter(&c.Policy)(pod)
			switch {
			case ok != (tt.want == ""):
				t.Errorf("admitted: %t, %s", ok, message)
			case !ok && (reason != "ForbiddenByDevice" || !strings.Contains(message, tt.want)):
				t.Errorf("got %s, %s", reason, message)
			}
		})
	}
}
