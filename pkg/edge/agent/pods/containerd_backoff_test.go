package pods

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

// shiftedRuntime tells times by the clock that the agent has: on a real device, both have the same.
type shiftedRuntime struct {
	runtime.Runtime
	clock *shiftedClock
}

func (r *shiftedRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	response, err := r.Runtime.ContainerStatus(ctx, id, verbose)
	if s := response.GetStatus(); s != nil {
		for _, at := range []*int64{&s.CreatedAt, &s.StartedAt, &s.FinishedAt} {
			if *at != 0 {
				*at += r.clock.shift.Load()
			}
		}
	}
	return response, err
}

// TestContainerdBackOffIsReset has a container fail, run for eleven minutes, and fail again: that is forgiven.
// Of all its instances, two are kept.
func TestContainerdBackOffIsReset(t *testing.T) {
	d := newDevice(t)
	d.stop()
	c := &shiftedClock{}
	d.clock, d.wrap = c, func(r runtime.Runtime) runtime.Runtime { return &shiftedRuntime{r, c} }
	d.start()
	pod := newPod("crash", script("main", "[ -e /marks/well ] || exit 3; "+forever))
	d.marks(pod)
	d.run(pod)
	waiting := func(message string) func() bool {
		return func() bool {
			s := d.status(pod)
			if len(s.ContainerStatuses) == 0 || s.ContainerStatuses[0].State.Waiting == nil {
				return false
			}
			w := s.ContainerStatuses[0].State.Waiting
			return w.Reason == "CrashLoopBackOff" && strings.HasPrefix(w.Message, message)
		}
	}
	d.wait("the first pause", waiting("back-off 10s restarting failed container"))
	d.touch(pod, "well", true) // or the next pause would be of 20 s
	d.wait("it to run", func() bool {
		s := d.status(pod)
		return s.ContainerStatuses[0].State.Running != nil && conditionIs(s, v1.PodReady, v1.ConditionTrue)
	})
	before := d.status(pod).ContainerStatuses[0].RestartCount
	c.shift.Store(int64(11 * time.Minute))
	d.touch(pod, "well", false)
	id, err := d.manager.ContainerID(string(pod.UID), "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.runtime.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	// It is started again at once, fails, and waits as after a first failure.
	d.wait("the first pause again", waiting("back-off 10s restarting failed container"))
	if got := d.status(pod).ContainerStatuses[0].RestartCount; got != before+1 {
		t.Errorf("restarted %d times, want %d", got, before+1)
	}
	d.wait("all instances but two to be removed", func() bool {
		list, err := d.runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}})
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == keptInstances
	})
	d.remove(pod, 0)
}
