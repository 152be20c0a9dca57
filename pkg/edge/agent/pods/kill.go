package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// minGrace is what even a container without a grace period gets between the signals, in seconds.
const minGrace = 2

// minPodGrace is what even a pod that has to go at once gets, in seconds: its preStop hooks are run.
const minPodGrace = 1

// stopAll stops what runs of a pod that starts nothing any more, and reads what has become of it. Meanwhile
// its readiness probes go on, and what they find is reported: what a pod that takes its time to stop does
// not serve any more goes elsewhere.
func (p *pass) stopAll(ctx context.Context, grace *int64) error {
	p.w.m.probes.terminating(p.w.uid)
	if p.st.AnyRunning() || p.st.ReadySandbox() != nil {
		killed := make(chan error, 1)
		go func() { killed <- p.killPod(ctx, grace) }()
		if err := p.reportUntil(ctx, killed); err != nil {
			return err
		}
		if err := p.read(ctx); err != nil {
			return err
		}
	}
	p.w.m.probes.remove(p.w.uid)
	return nil
}

// reportUntil reports a pod that is being stopped each time that its worker is woken.
func (p *pass) reportUntil(ctx context.Context, stopped <-chan error) error {
	woken := false
	for {
		select {
		case err := <-stopped:
			if err != nil && woken {
				p.w.wakeUp() // it may be for what has made this fail
			}
			return err
		case <-p.w.wake:
			woken = true
		}
		current := *p // the other goroutine has p
		current.reportStopping(ctx)
	}
}

// reportStopping reports a pod that is being stopped. As long as it is not stopped it has not ended.
func (p *pass) reportStopping(ctx context.Context) {
	if p.d == nil || p.w.rejected != nil {
		return // there is nothing to tell of it
	}
	s, old := p.status(), p.w.oldStatus(p.pod)
	if podutil.IsTerminal(s.Phase) && !podutil.IsTerminal(old.Phase) {
		s.Phase, s.Reason, s.Message = old.Phase, old.Reason, old.Message
	}
	p.w.report(ctx, p.pod, s)
}

// killPod stops all containers, at the same time but for sidecars, and then the sandboxes. grace takes
// the place of the pod's own grace period.
func (p *pass) killPod(ctx context.Context, grace *int64) error {
	var kills []kill
	for _, c := range p.st.Containers {
		if c.Running() || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			kills = append(kills, kill{instance: c})
		}
	}
	seconds := max(gracePeriod(p.pod, nil, "", grace), minPodGrace)
	if err := p.killContainers(ctx, kills, &seconds); err != nil {
		return err
	}
	var errs []error
	for _, sandbox := range p.st.Sandboxes {
		// One that is not ready may still hold its network.
		if err := p.w.m.cfg.Runtime.StopPodSandbox(ctx, sandbox.Id); err != nil && !crierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("stop sandbox: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() == nil {
			p.event(v1.EventTypeWarning, "FailedKillPod", "error killing pod: "+err.Error())
		}
		return err
	}
	p.removeCgroup(ctx)
	return nil
}

// killContainers stops containers at the same time.
func (p *pass) killContainers(ctx context.Context, kills []kill, grace *int64) error {
	turns := newTurns(p.pod, kills)
	errs := make([]error, len(kills))
	var wg sync.WaitGroup
	for i, k := range kills {
		wg.Go(func() {
			errs[i] = p.killContainer(ctx, k, grace, turns)
			turns.ended(k.instance.Name)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *pass) killContainer(ctx context.Context, k kill, override *int64, turns *turns) error {
	c := podutil.FindContainer(p.pod, k.instance.Name)
	message := k.message
	if message == "" {
		message = "Stopping container " + k.instance.Name
	}
	p.containerEvent(k.instance.Name, v1.EventTypeNormal, "Killing", message)
	deadline := p.now().Add(time.Duration(gracePeriod(p.pod, c, k.reason, override)) * time.Second)
	left := func() time.Duration { return deadline.Sub(p.now()) }
	if c != nil && left() > 0 {
		p.preStop(ctx, c, k.instance, left())
	}
	if left() > 0 {
		turns.wait(ctx, k.instance.Name, p.w.m.cfg.Clock.After(left()))
	}
	// The rest of a second counts as a whole one.
	seconds := max(int64((left()+time.Second-1)/time.Second), minGrace)
	if err := p.w.m.cfg.Runtime.StopContainer(ctx, k.instance.ID, seconds); err != nil && !crierrors.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", k.instance.Name, err)
	}
	return nil
}

// gracePeriod of a container in seconds.
func gracePeriod(pod *v1.Pod, c *v1.Container, reason killReason, override *int64) int64 {
	if override != nil {
		return *override
	}
	var probe *v1.Probe
	if c != nil {
		switch reason {
		case killStartupProbe:
			probe = c.StartupProbe
		case killLivenessProbe:
			probe = c.LivenessProbe
		}
	}
	switch {
	case probe != nil && probe.TerminationGracePeriodSeconds != nil:
		return *probe.TerminationGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return minGrace
}

// turns makes sidecars wait for the containers that they serve, and for sidecars started after them.
type turns struct {
	before map[string][]string
	done   map[string]chan struct{}

	mu   sync.Mutex
	left map[string]int // instances that have not ended
}

func newTurns(pod *v1.Pod, kills []kill) *turns {
	t := &turns{before: map[string][]string{}, done: map[string]chan struct{}{}, left: map[string]int{}}
	for _, k := range kills {
		if t.left[k.instance.Name]++; t.done[k.instance.Name] == nil {
			t.done[k.instance.Name] = make(chan struct{})
		}
	}
	var wait []string
	for i := range pod.Spec.Containers {
		wait = append(wait, pod.Spec.Containers[i].Name)
	}
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		if c := &pod.Spec.InitContainers[i]; podutil.IsSidecar(c) {
			t.before[c.Name] = wait
			wait = append(wait[:len(wait):len(wait)], c.Name)
		}
	}
	return t
}

// wait until all that come before have ended, or time is up.
func (t *turns) wait(ctx context.Context, name string, timeUp <-chan time.Time) {
	for _, other := range t.before[name] {
		done := t.done[other]
		if done == nil {
			continue // it does not run
		}
		select {
		case <-done:
		case <-timeUp:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ended lets those go on that wait for the container. It is called once for each instance.
func (t *turns) ended(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left[name]--; t.left[name] == 0 {
		close(t.done[name])
	}
}

// removeInstance removes a container that does not run, and its log.
func (p *pass) removeInstance(ctx context.Context, c *state.Container) error {
	if err := p.w.m.cfg.Runtime.RemoveContainer(ctx, c.ID); err != nil && !crierrors.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	return removeLogs(c.LogPath)
}
