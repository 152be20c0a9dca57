package pods

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// TestContainerdHostPaths has a volume of each type of hostPath with what it asks for, and with something else,
// on devices that allow them everywhere, or there only.
func TestContainerdHostPaths(t *testing.T) {
	d := newDevice(t)
	t.Run("everywhere", func(t *testing.T) { testHostPaths(t, d, filepath.Join(d.dir, "everywhere")) })
	host := d.restrictHostPaths("host")
	t.Run("restricted", func(t *testing.T) { testHostPaths(t, d, host) })
}

// restrictHostPaths allows hostPath volumes in one directory only, and returns it.
func (d *device) restrictHostPaths(name string) string {
	d.t.Helper()
	dir, err := filepath.EvalSymlinks(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	host := filepath.Join(dir, name)
	d.allowsHostPath = func(path string) bool { return path == host || strings.HasPrefix(path, host+"/") }
	d.restart()
	return host
}

func testHostPaths(t *testing.T, d *device, host string) {
	at := func(name string) string { return filepath.Join(host, name) }
	if err := os.MkdirAll(at("directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for name, mode := range map[string]uint32{"char": unix.S_IFCHR, "block": unix.S_IFBLK} {
		if err := unix.Mknod(at(name), mode|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	types := []struct {
		kind             v1.HostPathType
		path, test, what string // test is of the shell
		other            string // a path that is no such thing
	}{
		{v1.HostPathUnset, "directory", "-d", "", ""},
		{v1.HostPathDirectory, "directory", "-d", "directory", "file"},
		{v1.HostPathDirectoryOrCreate, "new/directory", "-d", "", ""},
		{v1.HostPathFile, "file", "-f", "file", "directory"},
		{v1.HostPathFileOrCreate, "new-file", "-f", "file", "directory"},
		{v1.HostPathSocket, "socket", "-S", "socket file", "file"},
		{v1.HostPathCharDev, "char", "-c", "character device", "block"},
		{v1.HostPathBlockDev, "block", "-b", "block device", "char"},
	}
	volume := func(kind v1.HostPathType, path string) v1.Volume {
		return v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: at(path), Type: &kind}}}
	}
	var tests []string
	right := newPod("right", script("main", ""))
	wrong := map[*v1.Pod]string{}
	for i, c := range types {
		v := volume(c.kind, c.path)
		v.Name = "v" + string(rune('a'+i))
		right.Spec.Volumes = append(right.Spec.Volumes, v)
		right.Spec.Containers[0].VolumeMounts = append(right.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: v.Name, MountPath: "/host/" + v.Name})
		tests = append(tests, "test "+c.test+" /host/"+v.Name)
		if c.other == "" {
			continue
		}
		pod := newPod("wrong-"+v.Name, script("main", forever))
		pod.Spec.Volumes = []v1.Volume{volume(c.kind, c.other)}
		wrong[pod] = "hostPath type check failed: " + at(c.other) + " is not a " + c.what
	}
	right.Spec.RestartPolicy = v1.RestartPolicyNever
	right.Spec.Containers[0].Command = []string{"/bin/sh", "-exc", strings.Join(tests, "; ")}
	d.run(right)
	for pod := range wrong {
		d.run(pod)
	}
	d.waitPhase(right, v1.PodSucceeded)
	pinned, err := mountinfo.Mounted(filepath.Join(d.manager.volumes.PodDir(string(right.UID)), "volume-subpaths/va/main/0"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if restricted := d.allowsHostPath != nil; pinned != restricted {
		t.Errorf("mounted from what was checked: %t, restricted: %t", pinned, restricted)
	}
	for pod, message := range wrong {
		want := `Warning FailedMount : MountVolume.SetUp failed for volume "v" : ` + message
		d.wait(want, func() bool { return d.sink.hasEvent(want) })
		if s := d.status(pod); s.Phase != v1.PodPending {
			t.Errorf("%s: phase %s", pod.Name, s.Phase)
		}
		d.remove(pod, 0)
	}
	d.remove(right, 0)
}

// TestContainerdHostPathThroughLink has a container that makes a link in what it may write, so that the next
// one gets another part of the host.
func TestContainerdHostPathThroughLink(t *testing.T) {
	d := newDevice(t)
	host := d.restrictHostPaths("host")
	volume := func(name, path string) v1.Volume {
		return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}}
	}
	pod := newPod("p", script("main", forever))
	pod.Spec.Volumes = []v1.Volume{volume("data", host), volume("link", filepath.Join(host, "link"))}
	pod.Spec.InitContainers = []v1.Container{script("init", "ln -s / /data/link")}
	pod.Spec.InitContainers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "link", MountPath: "/link"}}
	d.run(pod)
	want := `Warning FailedMount : MountVolume.SetUp failed for volume "link" : ` + host + "/link leads to /, which the device's own policy forbids"
	d.wait(want, func() bool { return d.sink.hasEvent(want) })
	if s := d.status(pod); s.Phase != v1.PodPending || s.ContainerStatuses[0].ContainerID != "" {
		t.Errorf("got %v", s)
	}
	d.remove(pod, 0)
}
