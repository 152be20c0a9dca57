package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/clip"
)

// conditions remembers the transitions of a Node's conditions.
type conditions struct {
	clock clock.Clock
	last  map[v1.NodeConditionType]v1.NodeCondition
}

// update returns all conditions. Their heartbeat times are left to whoever writes the Node.
func (c *conditions) update(pressure func(v1.NodeConditionType) bool, r runtimeState) []v1.NodeCondition {
	if c.last == nil {
		c.last = map[v1.NodeConditionType]v1.NodeCondition{}
	}
	of := func(t v1.NodeConditionType, badReason, badMessage, goodReason, goodMessage string) v1.NodeCondition {
		if pressure != nil && pressure(t) {
			return c.set(v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: badReason, Message: badMessage})
		}
		return c.set(v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: goodReason, Message: goodMessage})
	}
	return []v1.NodeCondition{
		of(v1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "the device has insufficient memory available",
			"KubeletHasSufficientMemory", "the device has sufficient memory available"),
		of(v1.NodeDiskPressure, "KubeletHasDiskPressure", "the device's disk is nearly full",
			"KubeletHasNoDiskPressure", "the device has no disk pressure"),
		of(v1.NodePIDPressure, "KubeletHasInsufficientPID", "the device has insufficient process ids available",
			"KubeletHasSufficientPID", "the device has sufficient process ids available"),
		c.set(ready(r)),
	}
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

func isReady(status *v1.NodeStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// steady cuts an error short, so that one that differs in its end only is no news.
func steady(err error) string {
	return clip.String(err.Error(), 200)
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
