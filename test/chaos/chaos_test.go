package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

const (
	// recoveryLimit is what is promised: every pod is back this soon after the agent's start.
	recoveryLimit = 30 * time.Second
	// reconnectLimit leaves room for the longest pause between two attempts to connect.
	reconnectLimit = 3 * time.Minute
)

// fault is what fails in a round.
type fault struct {
	name           string
	agent, runtime bool
	reboot         bool
	weight         int
	needsCut       bool
}

var faults = []fault{
	{name: "link alone", needsCut: true, weight: 2},
	{name: "agent killed", agent: true, weight: 4},
	{name: "runtime killed", runtime: true, weight: 3},
	{name: "agent and runtime killed", agent: true, runtime: true, weight: 3},
	{name: "reboot", reboot: true, weight: 5},
}

// plan is one round.
type plan struct {
	fault
	cut bool // the link is cut before, and restored once every pod is back
	// deleted has a pod be deleted in the cluster while the link is cut.
	deleted bool
}

func plans(seed uint64, rounds int) []plan {
	random := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	all := make([]plan, rounds)
	for i := range all {
		n := random.IntN(total)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				all[i] = plan{fault: f, cut: f.needsCut || random.IntN(4) > 0}
				break
			}
		}
		all[i].deleted = all[i].cut && random.IntN(3) == 0
	}
	return all
}

func (p plan) String() string {
	s := p.name
	if p.cut && !p.needsCut {
		s += ", link cut"
	}
	if p.deleted {
		s += ", a pod deleted meanwhile"
	}
	return s
}

// TestChaos lets link, agent, runtime and power of a device fail in random order.
func TestChaos(t *testing.T) {
	e := suite.Get(t)
	if link := e.Cluster.State().Link; link != local.LinkGRPC {
		t.Skipf("the link makes no difference to what is tested here; it runs over %s only", local.LinkGRPC)
	}
	rounds, seed := parameters(t)
	fmt.Printf("%d rounds; ARANYA_CHAOS_SEED=%d repeats them.\n", rounds, seed)
	c := &trial{workload: newWorkload(t, e), figures: figures{faults: map[string]int{}}}
	defer func() { fmt.Print(c.String()) }()
	for i, p := range plans(seed, rounds) {
		begin := time.Now()
		if !t.Run(fmt.Sprintf("round-%d", i+1), func(t *testing.T) { c.round(t, p) }) {
			t.Logf("round %d was: %s", i+1, p)
			return // the next ones would only tell the same
		}
		fmt.Printf("  %3d  %-52s %6.1f s\n", i+1, p, time.Since(begin).Seconds())
	}
}

// trial is a workload under failures.
type trial struct {
	*workload
	figures
	last snapshot // at the end of the round before
}

// round has one fault happen, and checks what becomes of the pods.
func (c *trial) round(t *testing.T, p plan) {
	c.rounds++
	c.faults[p.name]++
	var extra *expected
	if p.deleted {
		extra = c.add(t, steady, suite.Busybox(device, forever))
	}
	before := c.settled(t, "before the fault")
	if c.last != nil {
		c.restartedOnReconnect += c.unchanged(t, "since the round before", c.last, before)
	}
	if p.cut {
		c.offline++
		if err := c.e.Cluster.Unplug(device); err != nil {
			t.Fatal(err)
		}
	}
	began := c.strike(t, p, before)
	if extra != nil {
		c.deleteMeanwhile(t, extra)
	}
	after := c.recovered(t, p, began)
	c.checkCounts(t, p, before, after)
	if p.cut {
		if err := c.e.Cluster.PlugIn(device); err != nil {
			t.Fatal(err)
		}
	}
	c.reconnected(t, extra, after)
}

// strike makes the fault happen and returns when it was.
func (c *trial) strike(t *testing.T, p plan, before snapshot) time.Time {
	t.Helper()
	group := c.e.Cluster.Device(device)
	began := time.Now()
	switch {
	case p.reboot:
		if err := c.e.Cluster.PowerOff(t.Context(), device); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if err := c.e.Cluster.Boot(t.Context(), device); err != nil {
			t.Fatal(err)
		}
		for _, pod := range c.of(once) {
			pod.ended = true
		}
	default:
		if p.agent {
			if err := group.Signal(t.Context(), local.ServiceArhat, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			c.killVictim(t, before)
		}
		if p.runtime {
			if err := group.Signal(t.Context(), local.ServiceContainerd, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	return began
}

// killVictim kills a container while there is no agent to see it.
func (c *trial) killVictim(t *testing.T, before snapshot) {
	t.Helper()
	ctx := logr.NewContext(t.Context(), logr.Discard())
	client, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + c.e.Cluster.Dir + "/devices/" + device + "/containerd.sock").
		WithConnectionTimeout(10 * time.Second).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close(context.WithoutCancel(ctx)) }()
	for _, pod := range c.of(victim) {
		if err := client.StopContainer(ctx, before[pod.uid].running["main"], 0); err != nil {
			t.Fatal(err)
		}
	}
}

// deleteMeanwhile deletes a pod that the device cannot hear of.
func (c *trial) deleteMeanwhile(t *testing.T, p *expected) {
	t.Helper()
	if err := c.e.Kube.CoreV1().Pods(p.namespace).Delete(t.Context(), p.name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
}

// settled waits until everything is as it should be, on the device and in the cluster.
func (c *trial) settled(t *testing.T, when string) (s snapshot) {
	t.Helper()
	suite.Eventually(t, reconnectLimit, "device and cluster are in order "+when, func(ctx context.Context) (err error) {
		if s, err = look(ctx, c.e); err != nil {
			return err
		}
		return errors.Join(c.whole(s), c.inCluster(ctx, s))
	})
	return s
}

// recovered waits until every pod is back on the device.
func (c *trial) recovered(t *testing.T, p plan, began time.Time) (s snapshot) {
	t.Helper()
	if p.needsCut { // nothing was to be recovered from; the link is away for a while
		time.Sleep(time.Duration(1+c.rounds%5) * time.Second)
	}
	// Longer than it may take, to know how long it took.
	suite.Eventually(t, 4*recoveryLimit, "every pod is back", func(ctx context.Context) (err error) {
		if s, err = look(ctx, c.e); err != nil {
			return err
		}
		return c.whole(s)
	})
	took := time.Since(began)
	switch {
	case p.needsCut:
		return s
	case p.cut:
		c.alone.Add(took)
	default:
		c.linked.Add(took)
	}
	if took > recoveryLimit {
		t.Errorf("every pod was back after %s, which is more than %s", took, recoveryLimit)
	}
	return s
}

// checkCounts compares the containers with those of before the fault: only those may be new that the fault
// has ended, and each counts its restarts on.
func (c *trial) checkCounts(t *testing.T, p plan, before, after snapshot) {
	t.Helper()
	for uid, pod := range c.pods {
		was, is := before[uid], after[uid]
		restarted := p.reboot || (pod.kind == victim && p.agent)
		if !pod.kind.runs() {
			continue
		}
		for name, id := range was.running {
			want := was.attempts[name]
			if restarted {
				want++
			} else if is.running[name] != id {
				c.restartedByFault++
				t.Errorf("%s pod %s: container %s was healthy and is another one now", pod.kind, pod.name, name)
			}
			if got := is.attempts[name]; got != want {
				t.Errorf("%s pod %s: container %s counts %d restarts, want %d", pod.kind, pod.name, name, got, want)
			}
		}
	}
	c.checkMarks(t)
}

// checkMarks looks at what the containers have left.
func (c *trial) checkMarks(t *testing.T) {
	t.Helper()
	for uid, pod := range c.pods {
		switch pod.kind {
		case once, completed:
			if marks := c.marks(t, uid); marks != "ran\n" {
				c.runAgain++
				t.Errorf("%s pod %s has run again: %q", pod.kind, pod.name, marks)
			}
		case ordered:
			// The last container may not have got that far yet.
			suite.Eventually(t, recoveryLimit, "the containers of pod "+pod.name+" have started in order", func(context.Context) error {
				if marks := c.marks(t, uid); strings.ReplaceAll(marks, orderedMarks, "") != "" {
					return fmt.Errorf("they have left %q", marks)
				}
				return nil
			})
		}
	}
}

// unchanged checks that the same containers run, and returns how many do not.
func (c *trial) unchanged(t *testing.T, when string, before, after snapshot) int {
	t.Helper()
	n := c.restartsBetween(before, after)
	if n > 0 {
		t.Errorf("%d pods have other containers %s", n, when)
	}
	return n
}

// reconnected waits until the cluster shows what the device has, and checks that nothing was restarted for
// that. What has ended is replaced.
func (c *trial) reconnected(t *testing.T, deleted *expected, after snapshot) {
	t.Helper()
	begin := time.Now()
	if deleted != nil {
		delete(c.pods, deleted.uid)
	}
	now := c.settled(t, "after the reconnect")
	c.provesLink(t)
	c.reconnects.Add(time.Since(begin))
	if deleted != nil {
		c.deletedMeanwhile++
	}
	c.restartedOnReconnect += c.unchanged(t, "after the reconnect", after, now)
	for _, pod := range c.of(once) {
		if !pod.ended {
			continue
		}
		stays := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}
		if err := c.e.Kube.CoreV1().Pods(pod.namespace).Delete(t.Context(), pod.name, stays); err != nil {
			t.Fatal(err)
		}
		delete(c.pods, pod.uid)
		c.addOnce(t)
	}
	c.last = c.settled(t, "at the end of the round")
}

// provesLink reads a log, which only the device has.
func (c *trial) provesLink(t *testing.T) {
	t.Helper()
	pod := c.of(ordered)[0]
	suite.Eventually(t, reconnectLimit, "the log can be read", func(ctx context.Context) error {
		log, err := c.e.Kube.CoreV1().Pods(pod.namespace).GetLogs(pod.name, &corev1.PodLogOptions{Container: "main"}).DoRaw(ctx)
		if err == nil && len(log) > 0 {
			err = fmt.Errorf("log %q", log)
		}
		return err
	})
}
