package process_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/hack/simulator/simulate"
	"arhat.dev/aranya/test/framework/suite"
)

// output may be read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// TestSimulator runs the simulator's devices beside real ones: they get Nodes and pods, and nothing is left
// of them in the end. Nobody gets into the machine that they run on.
func TestSimulator(t *testing.T) {
	e := suite.Get(t)
	if e.Cluster.State().Link != local.LinkGRPC {
		t.Skip("the simulator is told of no broker here")
	}
	const devices = 3
	prefix := suite.Name("sim")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, done := &output{}, make(chan error, 1)
	go func() {
		done <- simulate.Run(ctx, simulate.Options{
			Cluster: e.Config, Namespace: local.Namespace, Prefix: prefix, Devices: devices, Workers: devices, Dir: filepath.Join(t.TempDir(), "fleet"),
			Runtime: fakecri.Options{PodIP: "192.0.2.1"}, Period: 50 * time.Millisecond, Out: out,
		})
	}()
	for i := range devices {
		suite.Eventually(t, time.Minute, "the Nodes are ready", func(ctx context.Context) error {
			return nodeReady(ctx, e, fmt.Sprintf("%s-%d", prefix, i), corev1.ConditionTrue)
		})
	}
	e.RunPod(t, suite.Pod(prefix+"-1", "anything", "sleep"))
	suite.Eventually(t, time.Minute, "the simulator tells", func(context.Context) error {
		if want := fmt.Sprintf("enrolled %d, connected %d, pods 1", devices, devices); !strings.Contains(out.String(), want) {
			return fmt.Errorf("no %q in %q", want, out)
		}
		return nil
	})
	if r := e.TryKubectl(t, "", "edge", "-n", local.Namespace, "exec", prefix+"-1", "--", "id"); r.Code == 0 {
		t.Errorf("exec on a simulated device: %+v", r)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, time.Minute, "the EdgeDevices are gone", func(ctx context.Context) error {
		for i := range devices {
			name := fmt.Sprintf("%s-%d", prefix, i)
			if _, err := e.Device(ctx, name); !apierrors.IsNotFound(err) {
				return fmt.Errorf("EdgeDevice %s: %w", name, err)
			}
			if _, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("node %s: %w", name, err)
			}
		}
		return nil
	})
}
