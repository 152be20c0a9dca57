package containerd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"arhat.dev/aranya/test/framework/suite"
)

// TestMetricsServer has the stock metrics-server collect from devices, and stock kubectl show it.
func TestMetricsServer(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	if err := e.Cluster.StartMetricsServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Cluster.StopMetricsServer(context.Background()); err != nil {
			t.Error(err)
		}
	})
	// One that computes and holds 64 MiB, and one that does nothing.
	busy := e.RunPod(t, suite.Busybox(device, `dd if=/dev/zero of=/dev/shm/x bs=1M count=64 2>/dev/null; while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done`))
	idle := e.RunPod(t, suite.Busybox("device-2", "exec sleep 1000"))

	// top returns what kubectl says about a line's CPU and memory, by the names before them.
	top := func(args ...string) (map[string][2]resource.Quantity, error) {
		r := e.TryKubectl(t, "", slices.Concat([]string{"top"}, args, []string{"--no-headers"})...)
		if r.Code != 0 {
			return nil, fmt.Errorf("kubectl top %v: %s", args, r.Stderr)
		}
		usage := map[string][2]resource.Quantity{}
		for line := range strings.Lines(r.Stdout) {
			fields := strings.Fields(line)
			name, numbers := fields[0], fields[1:]
			if args[0] == "pod" {
				name, numbers = fields[0]+"/"+fields[1], fields[2:] // --containers
			}
			var q [2]resource.Quantity
			for i, at := range map[int]int{0: 0, 1: map[bool]int{true: 2, false: 1}[args[0] == "node"]} {
				var err error
				if q[i], err = resource.ParseQuantity(numbers[at]); err != nil {
					return nil, fmt.Errorf("%q: %w", line, err)
				}
			}
			usage[name] = q
		}
		return usage, nil
	}
	mega := func(n int64) resource.Quantity { return *resource.NewQuantity(n<<20, resource.BinarySI) }
	suite.Eventually(t, 2*time.Minute, "kubectl top pod tells what the pods use", func(context.Context) error {
		usage, err := top("pod", "-n", suite.Namespace, "--containers")
		if err != nil {
			return err
		}
		b := usage[busy.Name+"/main"]
		i, found := usage[idle.Name+"/main"] // less than 1 MiB
		switch {
		case b[0].MilliValue() < 30 || b[0].MilliValue() > 4000:
			return fmt.Errorf("the busy pod uses %v of CPU; all: %v", b[0].String(), usage)
		case b[1].Cmp(mega(60)) < 0 || b[1].Cmp(mega(200)) > 0:
			return fmt.Errorf("the busy pod uses %v of memory; all: %v", b[1].String(), usage)
		case !found, i[0].MilliValue() >= 30, i[1].Cmp(mega(20)) > 0:
			return fmt.Errorf("the idle pod uses %v, %v or is missing; all: %v", i[0].String(), i[1].String(), usage)
		}
		return nil
	})
	suite.Eventually(t, time.Minute, "kubectl top node tells what the devices use", func(context.Context) error {
		usage, err := top("node")
		if err != nil {
			return err
		}
		for _, name := range []string{device, "device-2"} {
			if q := usage[name]; q[0].MilliValue() < 50 || q[1].Cmp(mega(100)) < 0 {
				return fmt.Errorf("%s uses %v, %v; all: %v", name, q[0].String(), q[1].String(), usage)
			}
		}
		return nil
	})
}
