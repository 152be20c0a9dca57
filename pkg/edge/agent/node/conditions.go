package node

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

// Thresholds of pressure: the kubelet's own defaults of hard eviction.
const (
	minMemoryBytes     = 100 << 20
	minDiskPercent     = 10
	minInodesPercent   = 5
	minProcessPercent  = 10
	pressureTransition = 5 * time.Minute
)

// conditions remembers the transitions of a Node's conditions.
type conditions struct {
	clock clock.Clock
	last  map[v1.NodeConditionType]v1.NodeCondition
	// relieved is when a pressure was last seen; it is over some minutes after that, lest a Node flaps.
	seen map[v1.NodeConditionType]time.Time
}

// update returns all conditions. Their heartbeat times are left to whoever writes the Node.
func (c *conditions) update(m measured, r runtimeState) []v1.NodeCondition {
	if c.last == nil {
		c.last, c.seen = map[v1.NodeConditionType]v1.NodeCondition{}, map[v1.NodeConditionType]time.Time{}
	}
	return []v1.NodeCondition{
		c.pressure(v1.NodeMemoryPressure, m.memoryTotal > 0 && m.memoryAvailable < minMemoryBytes && m.memoryAvailable*10 < m.memoryTotal,
			"KubeletHasInsufficientMemory", "the device has insufficient memory available", "KubeletHasSufficientMemory", "the device has sufficient memory available"),
		c.pressure(v1.NodeDiskPressure, below(m.diskAvailable, m.diskTotal, minDiskPercent) || below(m.inodesFree, m.inodesTotal, minInodesPercent),
			"KubeletHasDiskPressure", "the device's disk is nearly full", "KubeletHasNoDiskPressure", "the device has no disk pressure"),
		c.pressure(v1.NodePIDPressure, below(m.processesMax-min(m.processes, m.processesMax), m.processesMax, minProcessPercent),
			"KubeletHasInsufficientPID", "the device has insufficient process ids available", "KubeletHasSufficientPID", "the device has sufficient process ids available"),
		c.set(ready(r)),
	}
}

// below tells whether less than so many percent of a total are left. Nothing is known of a total of 0.
func below(left, total uint64, percent uint64) bool {
	return total > 0 && left < total/100*percent
}

func (c *conditions) pressure(t v1.NodeConditionType, now bool, badReason, badMessage, goodReason, goodMessage string) v1.NodeCondition {
	if now {
		c.seen[t] = c.clock.Now()
	}
	if since, ok := c.seen[t]; ok && c.clock.Now().Sub(since) < pressureTransition {
		return c.set(v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: badReason, Message: badMessage})
	}
	return c.set(v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: goodReason, Message: goodMessage})
}

func ready(r runtimeState) v1.NodeCondition {
	cond := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "arhat is posting ready status"}
	switch {
	case r.err != nil:
		cond.Status, cond.Reason, cond.Message = v1.ConditionFalse, "RuntimeNotReady", fmt.Sprintf("the container runtime does not answer: %s", steady(r.err))
	case !r.ready:
		cond.Status, cond.Reason, cond.Message = v1.ConditionFalse, "RuntimeNotReady", strings.Join(r.problems, "; ")
	}
	return cond
}

// steady cuts an error short, so that one that differs in its end only is no news.
func steady(err error) string {
	const limit = 200
	s := err.Error()
	return s[:min(len(s), limit)]
}

// set stamps a condition with the time of its last transition.
func (c *conditions) set(cond v1.NodeCondition) v1.NodeCondition {
	last, ok := c.last[cond.Type]
	if ok && last.Status == cond.Status {
		cond.LastTransitionTime = last.LastTransitionTime
	} else {
		cond.LastTransitionTime = metav1.NewTime(c.clock.Now().Truncate(time.Second))
	}
	c.last[cond.Type] = cond
	return cond
}
