package containerd_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"arhat.dev/aranya/test/framework/suite"
)

func TestExec(t *testing.T) {
	e := suite.Get(t)
	pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	for _, test := range []struct {
		name, script, input string
		stdout, stderr      string
		code                int
	}{
		{name: "output", script: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{name: "input", script: "cat", input: "some input\n", stdout: "some input\n"},
		{name: "exit code", script: "exit 42", stderr: "command terminated with exit code 42\n", code: 42},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := e.TryKubectl(t, test.input, "-n", "edge", "exec", "-i", pod.Name, "--", "sh", "-c", test.script)
			if r.Stdout != test.stdout || r.Stderr != test.stderr || r.Code != test.code {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestExecTerminal(t *testing.T) {
	e := suite.Get(t)
	pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	term := e.KubectlTerminal(t, 33, 101, "-n", "edge", "exec", "-it", pod.Name, "--", "sh")
	// The size arrives on its own, perhaps after the shell has started; it is 0 until then.
	term.Type(t, "until stty size 2>/dev/null; do sleep 0.1; done; tty\n")
	term.Expect(t, `33 101\r\n/dev/pts/\d+\r\n`)
	term.Type(t, "echo one$((1+1))three\n")
	term.Expect(t, `one2three\r\n`)
	term.Type(t, "sh -c 'echo asleep; exec sleep 1000'\n")
	term.Expect(t, `\nasleep\r\n`)
	term.Type(t, "\x03") // Ctrl-C ends the command, not the session
	term.Type(t, "echo still $((40+2))\n")
	term.Expect(t, `still 42\r\n`)
	term.Type(t, "exit 42\n")
	if code := term.Wait(t); code != 42 {
		t.Errorf("exit code %d", code)
	}
}

func TestAttach(t *testing.T) {
	e := suite.Get(t)
	pod := suite.Busybox(device, `while read line; do echo "got $line"; done`)
	pod.Spec.Containers[0].Stdin = true
	created := e.RunPod(t, pod)
	term := e.KubectlTerminal(t, 24, 80, "-n", "edge", "attach", "-i", created.Name)
	term.Expect(t, `(?i)command prompt|Defaulted`)
	term.Type(t, "hello\n")
	term.Expect(t, `got hello`)
}

// copySize is what is copied each way.
const copySize = 100 << 20

func TestCopy(t *testing.T) {
	e := suite.Get(t)
	pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	dir := t.TempDir()
	local, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	f, err := os.Create(local)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, hash), rand.Reader, copySize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := hash.Sum(nil)

	begin := time.Now()
	e.Kubectl(t, "-n", "edge", "cp", local, pod.Name+":/tmp/data")
	t.Logf("100 MiB to the device in %s", time.Since(begin))
	sum := e.Kubectl(t, "-n", "edge", "exec", pod.Name, "--", "sha256sum", "/tmp/data")
	if got, _, _ := strings.Cut(sum, " "); got != hexString(want) {
		t.Errorf("on the device the checksum is %s, want %x", got, want)
	}
	begin = time.Now()
	e.Kubectl(t, "-n", "edge", "cp", pod.Name+":/tmp/data", back)
	t.Logf("100 MiB from the device in %s", time.Since(begin))
	if got := fileSum(t, back); got != hexString(want) {
		t.Errorf("back again the checksum is %s, want %x", got, want)
	}
}

func TestPortForward(t *testing.T) {
	e := suite.Get(t)
	pod := suite.Busybox(device, `mkdir /www; echo "hello from the device" > /www/index.html; exec httpd -f -p 8080 -h /www`)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
	}
	pod = e.RunPod(t, pod)
	forward := e.KubectlBackground(t, "-n", "edge", "port-forward", pod.Name, ":8080")
	address := forward.Expect(t, 30*time.Second, `^Forwarding from (127\.0\.0\.1:\d+) -> 8080$`)[1]
	for range 3 {
		resp, err := http.Get("http://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(body) != "hello from the device\n" {
			t.Errorf("status %s, body %q, %v", resp.Status, body, err)
		}
	}
}

// TestDebug puts a container with tools beside one that has a process of interest.
func TestDebug(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := e.RunPod(t, suite.Busybox(device, "exec sleep 4321"))
	e.Kubectl(t, "-n", pod.Namespace, "debug", pod.Name, "--image="+suite.BusyboxImage, "--image-pull-policy=IfNotPresent", "--target=main", "--container=tools",
		"--", "sh", "-c", "ps -o args; exec sleep 1000")
	after := e.WaitPod(t, pod, "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].Name == "tools" && s[0].State.Running != nil
	})
	suite.Eventually(t, suite.PodTimeout, "the tools see the process", func(context.Context) error {
		if out := e.Kubectl(t, "-n", pod.Namespace, "logs", pod.Name, "-c", "tools"); !strings.Contains(out, "sleep 4321") {
			return fmt.Errorf("they see %q", out)
		}
		return nil
	})
	if b, n := pod.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; b.ContainerID != n.ContainerID || n.RestartCount != 0 {
		t.Errorf("%+v before, %+v now", b, n)
	}
}
