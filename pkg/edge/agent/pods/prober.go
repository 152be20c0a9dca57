package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/probe"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// The kinds of probes, as they are named in events.
const (
	startupProbe   = "Startup"
	livenessProbe  = "Liveness"
	readinessProbe = "Readiness"
)

// result of a probe so far.
type result int

const (
	unknown result = iota
	success
	failure
)

// prober runs the probes of all pods: a goroutine for each probe of a running container.
type prober struct {
	m *Manager

	mu      sync.Mutex
	workers map[probeKey]*probeWorker
}

type probeKey struct{ containerID, kind string }

// probeWorker runs one probe of one instance of a container.
type probeWorker struct {
	podUID    string
	cancel    context.CancelFunc
	probe     *v1.Probe
	target    probe.Target
	fieldPath string
	started   time.Time
	now       chan struct{} // has the probe run before its time

	result result // guarded by prober.mu
}

func newProber(m *Manager) *prober {
	return &prober{m: m, workers: map[probeKey]*probeWorker{}}
}

// Started tells whether the container has passed its startup probe.
func (p *prober) Started(c *v1.Container, containerID string) bool {
	return c.StartupProbe == nil || p.result(containerID, startupProbe) == success
}

// Ready tells whether the container passes its readiness probe.
func (p *prober) Ready(c *v1.Container, containerID string) bool {
	return c.ReadinessProbe == nil || p.result(containerID, readinessProbe) == success
}

func (p *prober) verdict(c *v1.Container, instance *state.Container) probeVerdict {
	if c.StartupProbe != nil {
		switch p.result(instance.ID, startupProbe) {
		case failure:
			return startupFailed
		case unknown:
			return probesUnknown
		}
	}
	if c.LivenessProbe != nil && p.result(instance.ID, livenessProbe) == failure {
		return livenessFailed
	}
	return probesPassed
}

func (p *prober) result(containerID, kind string) result {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.workers[probeKey{containerID, kind}]; w != nil {
		return w.result
	}
	return unknown
}

// sync starts the probes of containers that run, and ends those of containers that do not.
func (p *prober) sync(pod *v1.Pod, st *state.Pod, podIPs []string, last *v1.PodStatus) {
	p.m.mu.Lock()
	ctx := p.m.ctx
	p.m.mu.Unlock()
	podIP := ""
	if len(podIPs) > 0 {
		podIP = podIPs[0]
	}
	running := map[string]bool{}
	for c, list := range podutil.Containers(pod) {
		instance := st.Find(c.Name)
		if instance == nil || !instance.Running() || (list == "spec.initContainers" && !podutil.IsSidecar(c)) {
			continue
		}
		running[instance.ID] = true
		for kind, spec := range map[string]*v1.Probe{startupProbe: c.StartupProbe, livenessProbe: c.LivenessProbe, readinessProbe: c.ReadinessProbe} {
			if spec == nil {
				continue
			}
			p.ensure(ctx, probeKey{instance.ID, kind}, &probeWorker{
				podUID: string(pod.UID), probe: spec, fieldPath: podutil.FieldPath(pod, c.Name), started: instance.StartedAt,
				target: probe.Target{ContainerID: instance.ID, Container: c, PodIP: podIP},
				result: initialResult(kind, instance, last),
			})
		}
	}
	p.end(string(pod.UID), func(key probeKey) bool { return !running[key.containerID] })
}

// initialResult before a probe has been run: alive until shown otherwise, ready and started only if it
// was so before the agent's restart.
func initialResult(kind string, instance *state.Container, last *v1.PodStatus) result {
	if kind == livenessProbe {
		return success
	}
	cs := containerStatus(last, instance.Name)
	if cs == nil || cs.State.Running == nil || !hasID(cs.ContainerID, instance.ID) {
		return unknown
	}
	if (kind == readinessProbe && cs.Ready) || (kind == startupProbe && cs.Started != nil && *cs.Started) {
		return success
	}
	return unknown
}

func hasID(full, id string) bool {
	return len(full) > len(id) && full[len(full)-len(id):] == id
}

// ensure runs a probe unless the very same one is running.
func (p *prober) ensure(ctx context.Context, key probeKey, w *probeWorker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.workers[key]; have != nil {
		if equality.Semantic.DeepEqual(have.probe, w.probe) && have.target.PodIP == w.target.PodIP {
			return
		}
		have.cancel()
		w.result = have.result
	}
	ctx, w.cancel = context.WithCancel(ctx)
	w.now = make(chan struct{}, 1)
	p.workers[key] = w
	p.m.wg.Go(func() { p.run(ctx, key, w) })
}

// end ends the probes of a pod that match.
func (p *prober) end(podUID string, match func(probeKey) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, w := range p.workers {
		if w.podUID == podUID && match(key) {
			w.cancel()
			delete(p.workers, key)
		}
	}
}

// terminating ends what could kill a container of a pod that is being stopped. Its readiness still counts,
// and does not wait for a startup probe any more.
func (p *prober) terminating(podUID string) {
	p.end(podUID, func(key probeKey) bool { return key.kind == livenessProbe })
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, w := range p.workers {
		if w.podUID == podUID && key.kind == startupProbe {
			w.cancel()
			w.result = success
		}
	}
}

func (p *prober) remove(podUID string) {
	p.end(podUID, func(probeKey) bool { return true })
}

// run asks on the probe's schedule until the worker is cancelled or the result is final.
func (p *prober) run(ctx context.Context, key probeKey, w *probeWorker) {
	clock := p.m.cfg.Clock
	period := time.Duration(max(w.probe.PeriodSeconds, 1)) * time.Second
	initial := time.Duration(w.probe.InitialDelaySeconds) * time.Second
	// If the clock was set back since the container's start, nothing waits until it has caught up.
	untilFirst := func() time.Duration { return min(w.started.Add(initial).Sub(clock.Now()), initial) }
	delay := untilFirst()
	successes, failures := int32(0), int32(0)
	for {
		timer := clock.NewTimer(max(delay, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		case <-w.now:
			timer.Stop()
			if delay = untilFirst(); delay > 0 {
				continue // not even now before its initial delay
			}
		}
		delay = period
		if !p.due(key, w) {
			if key.kind == startupProbe {
				return // passed before: nothing more to ask
			}
			continue
		}
		switch p.ask(ctx, key, w) {
		case success:
			successes, failures = successes+1, 0
		case failure:
			successes, failures = 0, failures+1
		default:
			continue
		}
		switch {
		case successes >= max(w.probe.SuccessThreshold, 1):
			p.set(w, success)
			if key.kind == startupProbe {
				p.hurry(probeKey{key.containerID, readinessProbe})
				return
			}
		case failures >= max(w.probe.FailureThreshold, 1):
			p.set(w, failure)
			if key.kind != readinessProbe {
				return // the container is going to be replaced
			}
		}
	}
}

// hurry has a probe run at once: a container that has started must not wait for the next turn of its
// readiness probe.
func (p *prober) hurry(key probeKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.workers[key]; w != nil {
		select {
		case w.now <- struct{}{}:
		default: // it is about to
		}
	}
}

// due tells whether the probe is to be run now: the others wait for the startup probe.
func (p *prober) due(key probeKey, w *probeWorker) bool {
	if key.kind == startupProbe {
		p.mu.Lock()
		defer p.mu.Unlock()
		return w.result == unknown
	}
	return p.Started(w.target.Container, key.containerID)
}

// ask runs the probe once and tells the user if the answer is no. That the container could not be asked,
// as while the runtime is away, is no answer.
func (p *prober) ask(ctx context.Context, key probeKey, w *probeWorker) result {
	timeout := time.Duration(max(w.probe.TimeoutSeconds, 1)) * time.Second
	warning, err := probe.Run(ctx, p.exec, &w.probe.ProbeHandler, w.target, timeout)
	if ctx.Err() != nil {
		return unknown
	}
	if err == nil {
		if warning != "" {
			p.m.events.event(w.podUID, w.fieldPath, v1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", key.kind, warning))
		}
		return success
	}
	answer, message := unknown, fmt.Sprintf("%s probe errored and resulted in unknown state: %v", key.kind, err)
	var no *probe.Failure
	if errors.As(err, &no) {
		answer, message = failure, fmt.Sprintf("%s probe failed: %s", key.kind, no.Output)
	}
	p.m.events.event(w.podUID, w.fieldPath, v1.EventTypeWarning, "Unhealthy", message)
	return answer
}

func (p *prober) exec(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, error) {
	stdout, stderr, err := p.m.cfg.Runtime.ExecSync(ctx, containerID, command, timeout)
	return append(stdout, stderr...), err
}

// set keeps a result and wakes the pod if it is another one.
func (p *prober) set(w *probeWorker, r result) {
	p.mu.Lock()
	changed := w.result != r
	w.result = r
	p.mu.Unlock()
	if !changed {
		return
	}
	if pod := p.m.worker(w.podUID); pod != nil {
		pod.wakeUp()
	}
}
