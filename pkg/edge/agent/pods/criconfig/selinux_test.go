package criconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// What belongs to the pod gets its label. What belongs to the device keeps its own.
func TestRelabel(t *testing.T) {
	c := v1.Container{Name: "c", TerminationMessagePath: "/dev/termination-log",
		VolumeMounts: []v1.VolumeMount{{Name: "own", MountPath: "/own"}, {Name: "host", MountPath: "/host"}}}
	pod := testPod(c)
	pod.Spec.Volumes = []v1.Volume{{Name: "own", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: t.TempDir()}}}}
	files := Files{Volumes: volumes.New(t.TempDir(), false)}
	var err error
	if files.Mounted, err = files.Volumes.Setup(pod, volumes.Source{}); err != nil {
		t.Fatal(err)
	}
	for _, enabled := range []bool{false, true} {
		config, err := Container(pod, &c, &Node{SELinux: enabled}, Instance{PodIPs: []string{"10.0.0.2"}, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, m := range config.Mounts {
			got[m.ContainerPath] = m.SelinuxRelabel
		}
		want := map[string]bool{"/own": enabled, "/host": false, etcHosts: enabled, "/dev/termination-log": enabled}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("SELinux enabled %v:\n%s", enabled, diff)
		}
	}
}

func TestWritableSelinuxfs(t *testing.T) {
	for line, want := range map[string]bool{
		"26 17 0:7 / /sys/fs/selinux rw,relatime - selinuxfs selinuxfs rw": true,
		"26 17 0:7 / /sys/fs/selinux ro,relatime - selinuxfs selinuxfs rw": false,
		"26 17 0:7 / /sys/fs/selinux rw,relatime - selinuxfs selinuxfs ro": false,
	} {
		mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(line), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := writable(mounts[0]); got != want {
			t.Errorf("%s: got %v", line, got)
		}
	}
}
