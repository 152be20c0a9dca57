package containerd_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

// cutSize takes seconds to copy, so that there is time to stop the broker.
const cutSize = 512 << 20

// TestBrokerRestartDuringCopy stops the broker in the middle of kubectl cp: the copy fails and says so,
// what has arrived is a prefix of the file, and device and server find each other again by themselves.
func TestBrokerRestartDuringCopy(t *testing.T) {
	e := suite.Get(t)
	if e.Cluster.State().Link != local.LinkMQTT {
		t.Skip("the devices of this run are not reached through an MQTT broker")
	}
	pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	source := filepath.Join(t.TempDir(), "source")
	writeRandom(t, source, cutSize)

	failed := make(chan suite.Result, 1)
	go func() { failed <- e.TryKubectl(t, "", "-n", suite.Namespace, "cp", source, pod.Name+":/tmp/data") }()
	suite.Eventually(t, time.Minute, "the copy is under way", func(context.Context) error {
		if n := sizeOnDevice(t, e, pod); n == 0 {
			return fmt.Errorf("nothing has arrived")
		}
		return nil
	})
	if err := e.Cluster.Cloud().Stop(t.Context(), local.ServiceBroker); err != nil {
		t.Fatal(err)
	}
	result := <-failed
	if err := e.Cluster.Cloud().Resume(t.Context(), local.ServiceBroker); err != nil {
		t.Fatal(err)
	}
	if result.Code == 0 || !strings.Contains(strings.ToLower(result.Stderr), "error") {
		t.Errorf("a copy that was cut ended with %+v", result)
	}
	if err := e.Cluster.WaitOnline(t.Context(), device); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, time.Minute, "exec works again", func(context.Context) error {
		r := e.TryKubectl(t, "", "-n", suite.Namespace, "exec", pod.Name, "--", "true")
		if r.Code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})

	n := sizeOnDevice(t, e, pod)
	if n == 0 || n >= cutSize {
		t.Fatalf("%d bytes arrived, which tells nothing", n)
	}
	sum := e.Kubectl(t, "-n", suite.Namespace, "exec", pod.Name, "--", "sha256sum", "/tmp/data")
	if got, _, _ := strings.Cut(sum, " "); got != sumOfPrefix(t, source, n) {
		t.Errorf("the %d bytes that arrived are not those that were sent", n)
	}
	// The same copy works now.
	small := filepath.Join(t.TempDir(), "small")
	writeRandom(t, small, 1<<20)
	e.Kubectl(t, "-n", suite.Namespace, "cp", small, pod.Name+":/tmp/data")
	sum = e.Kubectl(t, "-n", suite.Namespace, "exec", pod.Name, "--", "sha256sum", "/tmp/data")
	if got, _, _ := strings.Cut(sum, " "); got != sumOfPrefix(t, small, 1<<20) {
		t.Error("the file that was copied afterwards differs")
	}
}

// sizeOnDevice is 0 also while there is no file, or no link.
func sizeOnDevice(t *testing.T, e *suite.Env, pod *corev1.Pod) int64 {
	t.Helper()
	r := e.TryKubectl(t, "", "-n", suite.Namespace, "exec", pod.Name, "--", "stat", "-c", "%s", "/tmp/data")
	n, err := strconv.ParseInt(strings.TrimSpace(r.Stdout), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// writeRandom writes a file in which no part is like another.
func writeRandom(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func sumOfPrefix(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.CopyN(hash, f, size); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}
