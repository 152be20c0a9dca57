package pods

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestContainerdEnvironmentAndVolumes(t *testing.T) {
	d := newDevice(t)
	c := script("main", forever)
	c.Env = []v1.EnvVar{
		{Name: "PLAIN", Value: "a"}, {Name: "REF", Value: "$(PLAIN)-$(MISSING)-$$(PLAIN)"},
		fieldEnv("POD_IP", "status.podIP"), fieldEnv("HOST_IP", "status.hostIP"), fieldEnv("LABEL", "metadata.labels['app']"),
		{Name: "CPUS", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
	}
	c.Command = []string{"/bin/sh", "-c", "echo $(PLAIN) > /data/arg; trap 'exit 0' TERM; " + forever}
	c.WorkingDir = "/tmp"
	c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	c.Resources.Requests = c.Resources.Limits
	c.SecurityContext = &v1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
	c.VolumeMounts = []v1.VolumeMount{
		{Name: "data", MountPath: "/data"}, {Name: "mem", MountPath: "/mem"}, {Name: "config", MountPath: "/config"},
		{Name: "secret", MountPath: "/secret"}, {Name: "token", MountPath: "/var/run/token"}, {Name: "down", MountPath: "/down"},
		{Name: "data", MountPath: "/sub", SubPath: "a/b"}, {Name: "config", MountPath: "/single", SubPath: "key"},
	}
	pod := newPod("volumes", c)
	pod.Spec.Hostname = "box"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"alias.example"}}}
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](1234), RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](1000)}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
		{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
		{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}},
		{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
	}
	d.run(pod,
		&edgeapi.VolumeData{Name: "config", Files: []*edgeapi.File{{Path: "key", Data: []byte("one"), Mode: 0o644}}},
		&edgeapi.VolumeData{Name: "secret", Files: []*edgeapi.File{{Path: "dir/pass", Data: []byte("hush"), Mode: 0o400}}},
		&edgeapi.VolumeData{Name: "token", Files: []*edgeapi.File{{Path: "token", Data: []byte("tok"), Mode: 0o644}}})
	d.waitReady(pod)
	s := d.status(pod)
	if s.PodIP == "" || s.HostIP != "192.0.2.7" || s.QOSClass != v1.PodQOSBurstable {
		t.Errorf("got pod IP %q, host IP %q, QoS %q", s.PodIP, s.HostIP, s.QOSClass)
	}
	for command, want := range map[string]string{
		"echo $REF":                  "a-$(MISSING)-$(PLAIN)",
		"echo $POD_IP":               s.PodIP,
		"echo $HOST_IP $LABEL $CPUS": "192.0.2.7 volumes 2",
		"cat /data/arg":              "a",
		"pwd":                        "/tmp",
		"cat /config/key /secret/dir/pass /single":          "onehushone",
		"cat /var/run/token/token /var/run/token/namespace": "tokdefault",
		"cat /down/labels":                           `app="volumes"`,
		"stat -c %a:%g /var/run/token/..data/token":  "640:1234",
		"stat -c %a:%g /secret/..data/dir/pass":      "440:1234",
		"stat -c %g /data":                           "1234",
		"stat -c %a:%g /config":                      "2755:1234",
		"stat -c %u:%g /proc/1":                      "1000:1000",
		"hostname":                                   "box",
		"grep -c alias.example /etc/hosts":           "1",
		"grep box /etc/hosts":                        s.PodIP + "\tbox",
		"touch /x 2>&1 | grep -c 'Read-only'":        "1",
		"touch /config/x 2>&1 | grep -c 'Read-only'": "1",
		"touch /sub/file && ls /data/a/b":            "file",
		"df -k /mem | awk 'NR==2{print $2}'":         "1024",
		"grep NoNewPrivs /proc/self/status":          "NoNewPrivs:\t1",
	} {
		if got := d.mustExec(pod, "main", "/bin/sh", "-c", command); got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
	d.manager.UpdateVolumes(&edgeapi.UpdateVolumes{Uid: string(pod.UID), VolumesDigest: "v2", Volumes: []*edgeapi.VolumeData{
		{Name: "config", Files: []*edgeapi.File{{Path: "key", Data: []byte("two"), Mode: 0o644}, {Path: "more", Data: []byte("new"), Mode: 0o644}}}}})
	d.wait("the update of the volume", func() bool {
		return d.mustExec(pod, "main", "/bin/sh", "-c", "cat /config/key; cat /config/more 2>/dev/null || true") == "twonew"
	})
	if digests := d.manager.Digests(); len(digests) != 1 || digests[0].VolumesDigest != "v2" || digests[0].Digest != "d1" {
		t.Errorf("got digests %v", digests)
	}
	d.remove(pod, 1)
}

func TestContainerdStreams(t *testing.T) {
	d := newDevice(t)
	pod := newPod("streams", script("main", "echo hello; mkdir -p /tmp/w; echo content > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; "+forever))
	echo := box("echo", "/bin/sh", "-c", "while :; do nc -l -p 9000 -e cat; done")
	pod.Spec.Containers = append(pod.Spec.Containers, echo)
	d.run(pod)
	d.waitReady(pod)

	if out, err := d.exec(pod, "main", strings.NewReader("from stdin"), "cat"); err != nil || out != "from stdin" {
		t.Errorf("exec with stdin: %q, %v", out, err)
	}
	_, err := d.exec(pod, "main", nil, "/bin/sh", "-c", "exit 42")
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 42 {
		t.Errorf("got %v (%T), want exit code 42", err, err)
	}
	id, err := d.manager.ContainerID(string(pod.UID), "main")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 91, Height: 17}
	close(sizes)
	err = d.runtime.ExecStream(t.Context(), id, []string{"/bin/sh", "-c", "until [ \"$(stty size)\" = '17 91' ]; do sleep 0.05; done; stty size"},
		runtime.IO{Stdin: neverEnding(t), Stdout: &out, TTY: true, Resize: sizes})
	if err != nil || !strings.Contains(out.String(), "17 91") {
		t.Errorf("tty: %q, %v", out.String(), err)
	}

	path, _, err := d.manager.ContainerLog(string(pod.UID), "main", false)
	if err != nil {
		t.Fatal(err)
	}
	d.wait("the log", func() bool { data, _ := os.ReadFile(path); return strings.HasSuffix(string(data), "stdout F hello\n") })
	if _, _, err := d.manager.ContainerLog(string(pod.UID), "main", true); err == nil {
		t.Error("there is no previous instance, but a log of it")
	}

	sandbox, err := d.manager.SandboxID(string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.runtime.DialPod(t.Context(), sandbox, 8080)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answer), "content") {
		t.Errorf("port-forward: %q, %v", answer, err)
	}
	conn.Close()

	// The echo server answers until it sees the end of what we send.
	conn, err = d.runtime.DialPod(t.Context(), sandbox, 9000)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "half")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "half" {
		t.Errorf("half-close: %q, %v", answer, err)
	}
	conn.Close()

	conn, err = d.runtime.DialPod(t.Context(), sandbox, 9)
	if err == nil {
		_, err = io.ReadAll(conn)
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: got %v, want that the connection was refused", err)
	}
	d.remove(pod, 1)
}

// neverEnding is a stdin on which nothing comes until the test is over.
func neverEnding(t *testing.T) io.Reader {
	r, w := net.Pipe()
	t.Cleanup(func() { w.Close(); r.Close() })
	return r
}
