package criconfig

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

func TestSecurityContext(t *testing.T) {
	root, user := ptr.To[int64](0), ptr.To[int64](1000)
	for _, tc := range []struct {
		name      string
		pod       *v1.PodSecurityContext
		container *v1.SecurityContext
		image     ImageUser
		check     func(*runtimeapi.LinuxContainerSecurityContext) bool
		err       string
	}{
		{name: "nothing said", image: ImageUser{UID: user}, check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
			return s.RunAsUser.Value == 1000 && s.Seccomp.ProfileType == runtimeapi.SecurityProfile_Unconfined && len(s.MaskedPaths) > 0 &&
				s.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER && !s.NoNewPrivs && !s.Privileged
		}},
		{name: "named user of the image", image: ImageUser{Name: "nobody"}, check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
			return s.RunAsUser == nil && s.RunAsUsername == "nobody"
		}},
		{name: "container before pod", pod: &v1.PodSecurityContext{RunAsUser: user, RunAsGroup: user, FSGroup: ptr.To[int64](7), SupplementalGroups: []int64{8}},
			container: &v1.SecurityContext{RunAsUser: ptr.To[int64](5)}, check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
				return s.RunAsUser.Value == 5 && s.RunAsGroup.Value == 1000 && slices.Equal(s.SupplementalGroups, []int64{7, 8})
			}},
		{name: "locked down", container: &v1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
			SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}, check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
			return s.NoNewPrivs && s.ReadonlyRootfs && s.Capabilities.DropCapabilities[0] == "ALL" && s.Capabilities.AddCapabilities[0] == "NET_BIND_SERVICE" &&
				s.Seccomp.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault
		}},
		{name: "privileged, unmasked", container: &v1.SecurityContext{Privileged: ptr.To(true), ProcMount: ptr.To(v1.UnmaskedProcMount)},
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool { return s.Privileged && len(s.MaskedPaths) == 0 }},
		{name: "localhost profile", container: &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("p/x.json")}},
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
				return s.Seccomp.LocalhostRef == "/seccomp/p/x.json"
			}},
		{name: "localhost profile elsewhere", container: &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("../x")}},
			err: "must be a path below"},
		{name: "non-root by the spec", pod: &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: user}, image: ImageUser{UID: root}},
		{name: "non-root, image is root", pod: &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, image: ImageUser{UID: root}, err: "image will run as root"},
		{name: "non-root, spec is root", pod: &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: root}, err: "container's runAsUser breaks non-root policy"},
		{name: "non-root, named user", pod: &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, image: ImageUser{Name: "app"}, err: "image has non-numeric user (app)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := testPod(v1.Container{Name: "c", SecurityContext: tc.container})
			pod.Spec.SecurityContext = tc.pod
			s, err := containerSecurity(pod, &pod.Spec.Containers[0], &Node{SeccompRoot: "/seccomp"}, tc.image)
			if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("got %v, want %q", err, tc.err)
			}
			if err == nil && tc.check != nil && !tc.check(s) {
				t.Errorf("got %v", s)
			}
		})
	}
}

func TestMaskedPaths(t *testing.T) {
	throttle := func(cpu string) string { return "sys/devices/system/cpu/" + cpu + "/thermal_throttle" }
	for _, tc := range []struct {
		name   string
		device fstest.MapFS
		want   []string
	}{
		{name: "no such counts", device: fstest.MapFS{"sys/devices/system/cpu/cpu0/online": {}}},
		{name: "of two cpus", device: fstest.MapFS{throttle("cpu0"): {Mode: fs.ModeDir}, throttle("cpu11"): {Mode: fs.ModeDir}, throttle("cpufreq"): {Mode: fs.ModeDir}},
			want: []string{"/" + throttle("cpu0"), "/" + throttle("cpu11")}},
	} {
		if diff := cmp.Diff(slices.Concat(alwaysMasked, tc.want), maskedPaths(tc.device)); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}
}

func TestSandbox(t *testing.T) {
	pod := testPod(v1.Container{Name: "c", Ports: []v1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: v1.ProtocolUDP, HostIP: "127.0.0.1"}}})
	pod.Labels["arhat.dev/managed-by"] = "a user's trick"
	pod.Spec.HostPID, pod.Spec.HostIPC = true, true
	pod.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net/core/somaxconn", Value: "1"}}, RunAsUser: ptr.To[int64](3)}
	config, _, err := Sandbox(pod, &Node{Owner: "me", LogDir: "/logs", CgroupParent: "x.slice"}, 4)
	if err != nil {
		t.Fatal(err)
	}
	if config.Labels["arhat.dev/managed-by"] != "me" || config.Labels["a"] != "1" || config.Labels["io.kubernetes.pod.uid"] != "uid" {
		t.Errorf("got labels %v", config.Labels)
	}
	if config.Hostname != "web" || config.LogDirectory != "/logs/ns_web_uid" || config.Metadata.Attempt != 4 || config.Linux.CgroupParent != "x.slice" {
		t.Errorf("got %v", config)
	}
	if p := config.PortMappings; len(p) != 1 || p[0].HostPort != 8080 || p[0].Protocol != runtimeapi.Protocol_UDP || p[0].HostIp != "127.0.0.1" {
		t.Errorf("got port mappings %v", p)
	}
	options := config.Linux.SecurityContext.NamespaceOptions
	if options.Pid != runtimeapi.NamespaceMode_NODE || options.Ipc != runtimeapi.NamespaceMode_NODE || options.Network != runtimeapi.NamespaceMode_POD {
		t.Errorf("got namespaces %v", options)
	}
	if config.Linux.Sysctls["net.core.somaxconn"] != "1" || config.Linux.SecurityContext.RunAsUser.Value != 3 {
		t.Errorf("got %v", config.Linux)
	}
	pod.Spec.HostNetwork, pod.Spec.HostPID, pod.Spec.ShareProcessNamespace = true, false, ptr.To(true)
	config, _, err = Sandbox(pod, &Node{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	options = config.Linux.SecurityContext.NamespaceOptions
	if options.Network != runtimeapi.NamespaceMode_NODE || options.Pid != runtimeapi.NamespaceMode_POD || config.Hostname != "" {
		t.Errorf("got %v, hostname %q", options, config.Hostname)
	}
	pod.Spec.HostUsers = ptr.To(false)
	if _, _, err := Sandbox(pod, &Node{}, 0); err == nil {
		t.Error("user namespaces were promised")
	}
}

func TestContainer(t *testing.T) {
	dir := t.TempDir()
	c := v1.Container{
		Name: "c", Image: "img", Command: []string{"$(A)"}, Args: []string{"$$(A)", "$(B)"}, WorkingDir: "/w", Stdin: true, TTY: true,
		Env:                    []v1.EnvVar{{Name: "A", Value: "prog"}, {Name: "SUB", Value: "dir"}},
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/data", ReadOnly: true, MountPropagation: ptr.To(v1.MountPropagationBidirectional)},
			{Name: "ro", MountPath: "relative"}},
		Lifecycle: &v1.Lifecycle{StopSignal: ptr.To(v1.SIGUSR1)},
	}
	pod := testPod(c)
	files := Files{Volumes: volumes.New(dir, true), Mounted: map[string]volumes.Mounted{"v": {Path: "/host/v"}, "ro": {Path: "/host/ro", ReadOnly: true}}}
	config, err := Container(pod, &c, &Node{Owner: "me"}, Instance{RestartCount: 3, ImageRef: "ref", PodIPs: []string{"10.0.0.2"}, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Command, []string{"prog"}) || !slices.Equal(config.Args, []string{"$(A)", "$(B)"}) || config.WorkingDir != "/w" || !config.Tty || !config.Stdin {
		t.Errorf("got %v", config)
	}
	if config.LogPath != "c/3.log" || config.Metadata.Attempt != 3 || config.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("got log %q, attempt %d, signal %v", config.LogPath, config.Metadata.Attempt, config.StopSignal)
	}
	if config.Annotations["io.kubernetes.container.restartCount"] != "3" || config.Labels["io.kubernetes.container.name"] != "c" || config.Labels["arhat.dev/managed-by"] != "me" {
		t.Errorf("got %v, %v", config.Annotations, config.Labels)
	}
	var got []string
	for _, m := range config.Mounts {
		got = append(got, m.ContainerPath+" "+strings.TrimPrefix(filepath.Dir(m.HostPath), dir)+" "+m.Propagation.String()+map[bool]string{true: " ro"}[m.Readonly])
	}
	private := "PROPAGATION_PRIVATE"
	want := []string{"/data /host PROPAGATION_BIDIRECTIONAL ro", "/relative /host " + private + " ro", "/etc/hosts /uid " + private, "/dev/termination-log /uid/containers/c " + private}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, change := range map[string]func(*v1.Container){
		"unknown volume": func(c *v1.Container) { c.VolumeMounts = []v1.VolumeMount{{Name: "no", MountPath: "/x"}} },
		"missing name":   func(c *v1.Container) { c.VolumeMounts[0].SubPathExpr = "$(MISSING)" },
		"block device":   func(c *v1.Container) { c.VolumeDevices = []v1.VolumeDevice{{Name: "v"}} },
		"recursive":      func(c *v1.Container) { c.VolumeMounts[0].RecursiveReadOnly = ptr.To(v1.RecursiveReadOnlyEnabled) },
		"mount options":  func(c *v1.Container) { c.VolumeMounts[0].BindMountOptions = []string{"noexec"} },
	} {
		bad := c.DeepCopy()
		change(bad)
		if _, err := Container(pod, bad, &Node{}, Instance{Files: files}); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: etcHosts}}
	config, err = Container(pod, &c, &Node{}, Instance{Files: files, PodIPs: []string{"10.0.0.2"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(config.Mounts); n != 2 {
		t.Errorf("%d mounts: the container's own %s must not be covered", n, etcHosts)
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	able := Features{RecursiveReadOnly: true}
	for _, tc := range []struct {
		mode        v1.RecursiveReadOnlyMode
		propagation v1.MountPropagationMode
		writable    bool
		features    Features
		want        bool
		err         string
	}{
		{mode: "", features: able},
		{mode: v1.RecursiveReadOnlyDisabled, features: able},
		{mode: v1.RecursiveReadOnlyIfPossible},
		{mode: v1.RecursiveReadOnlyIfPossible, features: able, want: true},
		{mode: v1.RecursiveReadOnlyEnabled, features: able, want: true},
		{mode: v1.RecursiveReadOnlyEnabled, err: `volume "v" requested recursive read-only mode, but it is not supported by the runtime`},
		{mode: v1.RecursiveReadOnlyEnabled, features: able, writable: true, err: "not read-only"},
		{mode: v1.RecursiveReadOnlyEnabled, features: able, propagation: v1.MountPropagationBidirectional, err: "not compatible with propagation"},
	} {
		vm := &v1.VolumeMount{Name: "v", ReadOnly: !tc.writable}
		if tc.mode != "" {
			vm.RecursiveReadOnly = &tc.mode
		}
		if tc.propagation != "" {
			vm.MountPropagation = &tc.propagation
		}
		got, err := RecursiveReadOnly(vm, tc.features)
		if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%+v: got %v", tc, err)
		}
		if got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}
