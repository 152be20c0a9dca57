package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/node"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

func TestAgent(t *testing.T) {
	c := newCloud(t)
	d := newDevice(t, c)
	s := c.connected()

	status := decodeNode(t, s.Info().NodeStatus)
	if got := status.NodeInfo; got.KubeletVersion == "" || !strings.HasPrefix(got.KubeletVersion, node.KubernetesVersion) || !strings.HasPrefix(got.ContainerRuntimeVersion, "process://") {
		t.Errorf("the device says %v", got)
	}
	c.eventually("the node has the capacity for pods from Welcome", func() bool {
		return len(c.nodes) > 0 && c.nodes[len(c.nodes)-1].Capacity.Pods().Value() == 110
	})

	c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &edgeapi.DesiredPods{}}})
	c.run(s, hostPod("web", "echo hello from $0; trap 'exit 0' TERM; while :; do sleep 0.05; done"))
	c.eventually("the pod runs", func() bool { return running(c.statuses["web-uid"]) })

	t.Run("streams", func(t *testing.T) { testStreams(t, s) })

	t.Run("policy", func(t *testing.T) {
		pod := hostPod("privileged", "true")
		pod.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
		c.run(s, pod)
		c.eventually("the pod is refused", func() bool {
			got := c.statuses["privileged-uid"]
			return got != nil && got.Phase == v1.PodFailed && got.Reason == "ForbiddenByDevice" && strings.Contains(got.Message, "policy.privilegedPods")
		})
	})

	t.Run("image", func(t *testing.T) {
		pod := hostPod("nginx", "true")
		pod.Spec.Containers[0].Image = "nginx:1"
		c.run(s, pod)
		c.eventually("the image is refused in the pod's status", func() bool {
			got := c.statuses["nginx-uid"]
			return got != nil && len(got.ContainerStatuses) == 1 && got.ContainerStatuses[0].State.Waiting != nil &&
				strings.Contains(got.ContainerStatuses[0].State.Waiting.Message, "no container runtime")
		})
	})

	t.Run("restart", func(t *testing.T) {
		before := c.container("web-uid")
		pid := mainPID(t, d.config.StateDir)
		d.stop()
		c.eventually("the session ends", func() bool { return c.session == nil })
		c.mu.Lock()
		clear(c.statuses)
		c.mu.Unlock()
		d.start()
		s = c.connected()
		digests := map[string]string{}
		for _, digest := range s.Hello().Pods {
			digests[digest.Uid] = digest.Digest
		}
		if digests["web-uid"] != "1" {
			t.Errorf("Hello has the digests %v", digests)
		}
		c.eventually("the status is sent again", func() bool { return running(c.statuses["web-uid"]) })
		after := c.container("web-uid")
		if before.ContainerID != after.ContainerID || before.RestartCount != after.RestartCount || !before.State.Running.StartedAt.Equal(&after.State.Running.StartedAt) {
			t.Errorf("the container was\n%v, is\n%v", before, after)
		}
		if got := mainPID(t, d.config.StateDir); got != pid {
			t.Errorf("the process was %d, is %d", pid, got)
		}
	})

	t.Run("delete", func(t *testing.T) {
		for _, uid := range []string{"web-uid", "privileged-uid", "nginx-uid", "never-heard-of"} {
			c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: uid, GracePeriodSeconds: 5}}})
			c.eventually(uid+" is removed", func() bool { return c.removed[uid] })
		}
		for _, dir := range []string{filepath.Join(d.config.StateDir, dirProcess, "containers"), filepath.Join(d.config.StateDir, dirProcess, "sandboxes"), d.config.LogDir} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("%s still has %v, %v", dir, entries, err)
			}
		}
	})
}

// A token is used once: it must not be spent, nor the identity replaced, under an agent that runs.
func TestEnrolBesideARunningAgent(t *testing.T) {
	d := newDevice(t, newCloud(t))
	enrol := func(context.Context) (*uplink.Joined, error) {
		t.Error("the device enrolled")
		return nil, nil
	}
	if _, err := New(t.Context(), d.config, Seams{Enrol: enrol}); err == nil || !strings.Contains(err.Error(), "stop it") {
		t.Errorf("got %v", err)
	}
}

// What keeps the process runtime from being opened is told, as for an agent that ran as root and does not any more.
func TestProcessRuntimeCannotBeOpened(t *testing.T) {
	d := newDevice(t, newCloud(t))
	d.stop()
	containers := filepath.Join(d.config.StateDir, dirProcess, "containers")
	if err := errors.Join(os.Remove(containers), os.WriteFile(containers, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), d.config, Seams{}); err == nil || !strings.Contains(err.Error(), containers) {
		t.Errorf("got %v", err)
	}
}

// mainPID reads the process of the only container from the runtime's records.
func mainPID(t *testing.T, stateDir string) int {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(stateDir, dirProcess, "containers", "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("the containers are %v, %v", dirs, err)
	}
	started, err := shim.ReadStarted(dirs[0])
	if err != nil || !started.Alive() {
		t.Fatalf("the container's process is %v, %v", started, err)
	}
	return started.PID
}

func runExec(t *testing.T, s gateway.Session, container *target.Container, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command, err := target.Exec(ctx, s, container, argv, streaming.Options{Stdout: true})
	if err != nil {
		return "", err
	}
	out := &bytes.Buffer{}
	err = command.Run(ctx, streaming.IO{Stdout: out})
	return out.String(), err
}

func testStreams(t *testing.T, s gateway.Session) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "web-uid"}}
	container := &target.Container{Pod: pod, Name: "main"}
	for name, where := range map[string]*target.Container{"host": nil, "container": container} {
		out, err := runExec(t, s, where, "sh", "-c", "echo one; exit 42")
		var exit utilexec.ExitError
		if out != "one\n" || !errors.As(err, &exit) || exit.ExitStatus() != 42 {
			t.Errorf("exec in the %s gave %q, %v", name, out, err)
		}
	}
	for _, log := range []struct {
		request *edgeapi.Log
		want    string
	}{
		{&edgeapi.Log{TailLines: -1, LimitBytes: -1}, "hello from"},
		{&edgeapi.Log{TailLines: -1, LimitBytes: 5}, "hello"},
	} {
		r, err := target.Log(t.Context(), s, container, log.request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !strings.HasPrefix(string(got), log.want) {
			t.Errorf("the log is %q, %v", got, err)
		}
		_ = r.Close()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			data, _ := io.ReadAll(conn)
			_, _ = fmt.Fprintf(conn, "got %s", data)
			_ = conn.Close()
		}
	}()
	for _, address := range []target.Address{{}, {Pod: pod}} {
		conn, err := target.Dialer(s, address)(t.Context(), uint16(listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "ping")
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "got ping" {
			t.Errorf("dial of %v gave %q, %v", address, got, err)
		}
		_ = conn.Close()
	}
	if _, err := target.Dialer(s, target.Address{Host: "203.0.113.1"})(t.Context(), 80); !apierrors.IsForbidden(err) {
		t.Errorf("a host on the network gave %v", err)
	}
	summary, err := target.Stats(t.Context(), s, false)
	if err != nil {
		t.Fatal(err)
	}
	checkSummary(t, summary)
}

func checkSummary(t *testing.T, summary *statsapi.Summary) {
	if len(summary.Pods) != 1 || summary.Pods[0].PodRef.Name != "web" || ptr.Deref(summary.Pods[0].Memory.WorkingSetBytes, 0) == 0 {
		t.Errorf("the summary has the pods %v", summary.Pods)
	}
	if ptr.Deref(summary.Node.Memory.WorkingSetBytes, 0) == 0 || ptr.Deref(summary.Node.CPU.UsageCoreNanoSeconds, 0) == 0 || summary.Node.Fs == nil {
		t.Errorf("the summary has the node %v", summary.Node)
	}
}

// What a Hello tells of the device is not told again as a change: pods hear of it there, whether or not the server answers.
func TestHelloTellsPods(t *testing.T) {
	d := newDevice(t, newCloud(t))
	d.stop()
	a, err := New(t.Context(), d.config, Seams{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(t.Context())
	// The device has another address.
	a.node = node.New(node.Config{Runtime: a.runtime, NodeIP: "192.0.2.9", StateDir: d.config.StateDir, Reserved: a.reserved, Pressure: a.underPressure})
	a.Hello(t.Context())
	a.pods.RunPod(&edgeapi.RunPod{Uid: "unusable"}) // it is refused at once
	message, ok := a.outbox.statuses.take()
	status := &v1.PodStatus{}
	if !ok || status.Unmarshal(message.Status) != nil || status.HostIP != "192.0.2.9" {
		t.Errorf("got %v", status)
	}
}
