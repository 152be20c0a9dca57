package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

var ceiling = harness.Scenario{
	Name:    "ceiling",
	Doc:     "what this control plane can do at this moment without aranya, by 50 clients that speak protobuf",
	N:       1000,
	SmokeN:  20,
	Cluster: harness.Cluster{KubernetesOnly: true},
	Run: func(ctx context.Context, r *harness.Run) error {
		stop, err := r.Watch(ctx, local.ServiceEtcd, local.ServiceAPIServer, local.ServiceControllerManager)
		if err != nil {
			return err
		}
		defer stop()
		onlooker, err := r.Onlooker(ctx, "ceiling")
		if err != nil {
			return err
		}
		defer onlooker.Stop()
		c, err := measureCeiling(ctx, r, r.N)
		if err != nil {
			return err
		}
		for _, f := range []struct {
			name  string
			value float64
		}{
			{"Node create with status", c.NodeCreate}, {"Node status patch", c.NodeStatusPatch}, {"Node delete", c.NodeDelete},
			{"Lease create", c.LeaseCreate}, {"Lease update", c.LeaseUpdate}, {"Lease delete", c.LeaseDelete},
			{"bare Nodes and Leases gone", c.Gone}, {"bare Nodes Ready and schedulable", c.Ready},
		} {
			r.Figure(report.Figure{Name: f.name, Value: f.value, Unit: "1/s"})
		}
		machine(r, c)
		rate, err := leftToControllerManager(ctx, r, r.N)
		if err != nil {
			return err
		}
		r.Figure(report.Figure{Name: "the same with the taint not-ready left to controller-manager", Value: rate, Unit: "1/s"})
		onlooker.Stop()
		r.Latency("onlooker's write", &onlooker.Writes, nil, nil)
		return nil
	},
}

// Ceiling is what a control plane can do, in operations per second.
type Ceiling struct {
	NodeCreate, NodeStatusPatch, NodeDelete float64
	LeaseCreate, LeaseUpdate, LeaseDelete   float64
	// Ready is how fast bare Nodes come up by the fewest writes possible (Node with its status, Lease,
	// taint off), and Gone how fast Nodes and Leases are deleted.
	Ready, Gone float64
	// CPU is what kube-apiserver used for all of that, in ms per Node: how fast the machine was, for this kind of work.
	CPU float64
}

// measureCeiling measures with n Nodes, and leaves nothing of them behind.
func measureCeiling(ctx context.Context, r *harness.Run, n int) (Ceiling, error) {
	var c Ceiling
	if err := waitQuiet(ctx, r); err != nil {
		return c, err
	}
	pid, err := r.PID(ctx, local.ServiceAPIServer)
	if err != nil {
		return c, err
	}
	begin, err := measure.Process(pid)
	if err != nil {
		return c, err
	}
	b, err := newBareNodes(r, "ceiling")
	if err != nil {
		return c, err
	}
	for _, step := range []struct {
		what string
		rate *float64
		do   func(context.Context, kubernetes.Interface, string) error
	}{
		{"create Nodes", &c.NodeCreate, b.createNode},
		{"patch the status of Nodes", &c.NodeStatusPatch, b.patchStatus},
		{"create Leases", &c.LeaseCreate, b.createLease},
		{"update Leases", &c.LeaseUpdate, b.updateLease},
		{"delete Leases", &c.LeaseDelete, b.deleteLease},
		{"delete Nodes", &c.NodeDelete, b.deleteNode},
		{"bring Nodes up", &c.Ready, b.bringUp},
		{"take Nodes down", &c.Gone, b.takeDown},
	} {
		took, err := b.each(ctx, n, step.do)
		if err != nil {
			return c, fmt.Errorf("%s: %w", step.what, err)
		}
		*step.rate = harness.Rate(n, took)
		r.Log("%s: %d in %s", step.what, n, took.Round(time.Millisecond))
	}
	end, err := measure.Process(pid)
	if err != nil {
		return c, err
	}
	c.CPU = float64((end.CPU - begin.CPU).Microseconds()) / 1000 / float64(n)
	return c, nil
}

// machine tells how fast the machine was when the ceiling was measured.
func machine(r *harness.Run, c Ceiling) {
	r.Figure(report.Figure{Name: "CPU of kube-apiserver per bare Node", Value: c.CPU, Unit: "ms",
		Note: "for the eleven writes of the ceiling: how fast the machine is for such work"})
}

// mean is what was to be had between two measurements: the speed of the machine drifts.
func mean(before, after Ceiling) Ceiling {
	of := func(a, b float64) float64 { return 2 / (1/a + 1/b) } // of the times
	return Ceiling{
		NodeCreate: of(before.NodeCreate, after.NodeCreate), NodeStatusPatch: of(before.NodeStatusPatch, after.NodeStatusPatch),
		NodeDelete: of(before.NodeDelete, after.NodeDelete), LeaseCreate: of(before.LeaseCreate, after.LeaseCreate),
		LeaseUpdate: of(before.LeaseUpdate, after.LeaseUpdate), LeaseDelete: of(before.LeaseDelete, after.LeaseDelete),
		Ready: of(before.Ready, after.Ready), Gone: of(before.Gone, after.Gone),
		CPU: (before.CPU + after.CPU) / 2,
	}
}

// bareNodes are Nodes without anything behind them.
type bareNodes struct {
	clients []kubernetes.Interface
	prefix  string
	leases  sync.Map // name -> *coordinationv1.Lease, as it was written
}

// connections is over how many connections the load goes.
const connections = 5

func newBareNodes(r *harness.Run, prefix string) (*bareNodes, error) {
	b := &bareNodes{prefix: prefix}
	for range connections {
		client, err := r.NewKube()
		if err != nil {
			return nil, err
		}
		b.clients = append(b.clients, client)
	}
	return b, nil
}

func (b *bareNodes) each(ctx context.Context, n int, do func(context.Context, kubernetes.Interface, string) error) (time.Duration, error) {
	return harness.Parallel(ctx, n, harness.Workers, func(ctx context.Context, i int) error {
		return do(ctx, b.clients[i%len(b.clients)], fmt.Sprintf("%s-%d", b.prefix, i))
	})
}

func (b *bareNodes) createNode(ctx context.Context, client kubernetes.Interface, name string) error {
	_, err := client.CoreV1().Nodes().Create(ctx, bareNode(name), metav1.CreateOptions{})
	return err
}

// bareNode is about as large as the Node of a device.
func bareNode(name string) *corev1.Node {
	now := metav1.Now()
	conditions := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bare"}}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		conditions = append(conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: "Bare"})
	}
	for i := range conditions {
		conditions[i].LastHeartbeatTime, conditions[i].LastTransitionTime = now, now
	}
	resources := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
			corev1.LabelHostname: name,
		}},
		Status: corev1.NodeStatus{
			Capacity: resources, Allocatable: resources, Conditions: conditions,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			NodeInfo:  corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64", KernelVersion: "6.1"},
		},
	}
}

func (b *bareNodes) patchStatus(ctx context.Context, client kubernetes.Interface, name string) error {
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []map[string]any{
		{"type": "Ready", "status": "True", "reason": "Patched", "lastHeartbeatTime": metav1.Now()},
	}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}

func (b *bareNodes) deleteNode(ctx context.Context, client kubernetes.Interface, name string) error {
	return client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
}

func (b *bareNodes) createLease(ctx context.Context, client kubernetes.Interface, name string) error {
	lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, bareLease(name), metav1.CreateOptions{})
	if err == nil {
		b.leases.Store(name, lease)
	}
	return err
}

func bareLease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &name, LeaseDurationSeconds: ptr.To[int32](40), RenewTime: ptr.To(metav1.NowMicro()),
		},
	}
}

// updateLease renews a Lease that createLease made.
func (b *bareNodes) updateLease(ctx context.Context, client kubernetes.Interface, name string) error {
	value, ok := b.leases.Load(name)
	if !ok {
		return fmt.Errorf("there is no Lease %s", name)
	}
	lease := value.(*coordinationv1.Lease).DeepCopy()
	lease.Spec.RenewTime = ptr.To(metav1.NowMicro())
	_, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

func (b *bareNodes) deleteLease(ctx context.Context, client kubernetes.Interface, name string) error {
	return client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, name, metav1.DeleteOptions{})
}

// bringUp makes a Node that is Ready and that the scheduler may use.
func (b *bareNodes) bringUp(ctx context.Context, client kubernetes.Interface, name string) error {
	if err := b.createNode(ctx, client, name); err != nil {
		return err
	}
	if err := b.createLease(ctx, client, name); err != nil {
		return err
	}
	_, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
	return err
}

func (b *bareNodes) takeDown(ctx context.Context, client kubernetes.Interface, name string) error {
	if err := b.deleteNode(ctx, client, name); err != nil {
		return err
	}
	return b.deleteLease(ctx, client, name)
}

// leftToControllerManager is how fast n Nodes come up if nobody but controller-manager removes the taint
// not-ready, in Nodes per second.
func leftToControllerManager(ctx context.Context, r *harness.Run, n int) (float64, error) {
	b, err := newBareNodes(r, "tainted")
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := b.each(ctx, n, func(ctx context.Context, client kubernetes.Interface, name string) error {
		if err := b.createNode(ctx, client, name); err != nil {
			return err
		}
		return b.createLease(ctx, client, name)
	}); err != nil {
		return 0, err
	}
	if err := waitUntainted(ctx, r.Kube, n, begin.Add(time.Minute+time.Duration(n)*untaintTimeout)); err != nil {
		return 0, err
	}
	rate := harness.Rate(n, time.Since(begin))
	_, err = b.each(ctx, n, b.takeDown)
	return rate, err
}

const (
	// untaintTimeout is per Node: a controller-manager that may do 20 requests in a second frees 4 to 8.
	untaintTimeout = time.Second
	pollPeriod     = 200 * time.Millisecond
)

// waitUntainted waits until n Nodes are without the taint not-ready.
func waitUntainted(ctx context.Context, client kubernetes.Interface, n int, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		free := 0
		for i := range list.Items {
			if !tainted(&list.Items[i]) {
				free++
			}
		}
		if free >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d Nodes lost the taint %s: %w", free, n, corev1.TaintNodeNotReady, ctx.Err())
		case <-time.After(pollPeriod):
		}
	}
}

func tainted(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady {
			return true
		}
	}
	return false
}
