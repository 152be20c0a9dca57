package process_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/hack/simulator/simulate"
	"arhat.dev/aranya/pkg/edge/agent/config"
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

// linkTemplates are what the simulator must be told of the link of this run: nothing if that is TCP.
func linkTemplates(t *testing.T, e *suite.Env, prefix string, devices int) (edgeDevice, agent string) {
	t.Helper()
	if e.Cluster.State().Link == local.LinkGRPC {
		return "", ""
	}
	dir := t.TempDir()
	for i := range devices {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if err := e.Cluster.AdmitGuests(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(dir, name)
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		fields, err := e.Cluster.LinkConfig(t.Context(), name, own)
		if err != nil {
			t.Fatal(err)
		}
		fields["apiVersion"], fields["kind"] = config.APIVersion, config.Kind
		data, err := yaml.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		agent = strings.ReplaceAll(string(data), name, "$(NAME)")
	}
	data, err := yaml.Marshal(map[string]any{"spec": map[string]any{"connectivity": e.Cluster.Connectivity()}})
	if err != nil {
		t.Fatal(err)
	}
	return string(data), agent
}

// TestSimulator runs the simulator's devices beside real ones: they get Nodes and pods, and nothing is left
// of them in the end. Nobody gets into the machine that they run on.
func TestSimulator(t *testing.T) {
	e := suite.Get(t)
	const devices = 3
	prefix := suite.Name("sim")
	edgeDevice, agent := linkTemplates(t, e, prefix, devices)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, done := &output{}, make(chan error, 1)
	go func() {
		done <- simulate.Run(ctx, simulate.Options{
			Cluster: e.Config, Namespace: local.Namespace, Prefix: prefix, Devices: devices, Workers: devices, Dir: filepath.Join(t.TempDir(), "fleet"),
			EdgeDevice: edgeDevice, Agent: agent,
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
