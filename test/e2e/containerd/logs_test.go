package containerd_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/test/framework/suite"
)

// TestLogsAcrossRotation reads the log of a container that writes more than one file takes, with stock
// kubectl.
func TestLogsAcrossRotation(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	reconfigure(t, e, name, "containerLogMaxSize: 16Ki\n")
	pod := e.RunPod(t, suite.Busybox(name, `i=0; until [ -e /stop ]; do i=$((i+1)); echo "line $i of a log that is rotated while it is read"; sleep 0.02; done; exit 3`))
	logs := func(args ...string) []string {
		t.Helper()
		out := e.Kubectl(t, append([]string{"-n", pod.Namespace, "logs", pod.Name}, args...)...)
		return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	}
	number := func(line string) (n int) {
		t.Helper()
		if _, err := fmt.Sscanf(line, "line %d of a log", &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	consecutive := func(lines []string) {
		t.Helper()
		for i := range lines[1:] {
			if number(lines[i])+1 != number(lines[i+1]) {
				t.Fatalf("%q is followed by %q", lines[i], lines[i+1])
			}
		}
	}

	// Nothing is lost for one who follows.
	follow := e.KubectlBackground(t, "-n", pod.Namespace, "logs", "-f", pod.Name)
	next := func() int { return number(follow.Expect(t, suite.PodTimeout, "^(.*)$")[1]) }
	aside := filepath.Join(e.Cluster.Dir, "devices", name, "logs", "pods", fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID), "main", "0.log.*")
	last, after := 0, 0
	for deadline := time.Now().Add(suite.PodTimeout); after < 100; {
		if n := next(); n != last+1 {
			t.Fatalf("line %d is followed by line %d", last, n)
		}
		last++
		if files, err := filepath.Glob(aside); err != nil || len(files) > 0 {
			after++
		} else if time.Now().After(deadline) {
			t.Fatal("the log is not rotated")
		}
	}

	// What is left in the file of the moment is consistent.
	tail := logs("--tail=5")
	if consecutive(tail); len(tail) != 5 || number(tail[4]) < last {
		t.Errorf("--tail=5: %q", tail)
	}
	if out := e.Kubectl(t, "-n", pod.Namespace, "logs", pod.Name, "--limit-bytes=100"); len(out) != 100 {
		t.Errorf("--limit-bytes=100: %d bytes", len(out))
	}
	all, recent := logs(), logs("--since=1s")
	consecutive(all)
	if consecutive(recent); len(recent) >= len(all) {
		t.Errorf("--since=1s gives %d lines of %d", len(recent), len(all))
	}
	for _, line := range logs("--tail=3", "--timestamps") {
		stamp, text, _ := strings.Cut(line, " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || time.Since(at) > suite.PodTimeout {
			t.Errorf("%q: %v", line, err)
		}
		number(text)
	}

	// The log of the instance before is there after a restart.
	e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "touch", "/stop")
	e.WaitPod(t, pod, "restarted", func(p *corev1.Pod) bool {
		cs := p.Status.ContainerStatuses
		return len(cs) == 1 && cs[0].RestartCount == 1 && cs[0].State.Running != nil
	})
	previous := logs("--previous", "--tail=20") // fewer if the log has just been put aside
	if consecutive(previous); len(previous) > 20 || number(previous[len(previous)-1]) < last {
		t.Errorf("--previous: %q", previous)
	}
	if now := logs("--tail=1"); number(now[0]) > number(previous[0]) {
		t.Errorf("the log of the present instance goes on with that of the one before: %q", now)
	}
}
