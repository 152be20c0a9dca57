package pods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/probe"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// hookTimeout bounds a hook that nothing else bounds.
const hookTimeout = time.Hour

// maxHookOutput bounds what is told of the output of a hook that failed.
const maxHookOutput = 512

// postStart runs the container's hook. A container whose hook fails is killed; its restart policy
// decides what then.
func (s *starter) postStart(ctx context.Context, c *v1.Container, instance *state.Container) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := s.runHook(ctx, c, instance.ID, c.Lifecycle.PostStart, hookTimeout)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	// The output stays out of the event: it may hold secrets. The status tells of it, as the kubelet's does.
	s.containerEvent(c.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	s.refuse(c, reasonPostStart, err.Error())
	return errors.Join(fmt.Errorf("postStart hook of container %s: %w", c.Name, err),
		s.killContainers(ctx, []kill{{instance: instance, message: "FailedPostStartHook"}}, nil))
}

// preStop runs the container's hook, for as long as the grace period leaves.
func (p *pass) preStop(ctx context.Context, c *v1.Container, instance *state.Container, left time.Duration) {
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || !instance.Running() {
		return
	}
	if err := p.runHook(ctx, c, instance.ID, c.Lifecycle.PreStop, left); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "PreStop hook failed", "pod", klog.KObj(p.pod), "container", c.Name)
		p.containerEvent(c.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

func (p *pass) runHook(ctx context.Context, c *v1.Container, id string, hook *v1.LifecycleHandler, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case hook.Exec != nil:
		output, err := p.w.m.probes.exec(ctx, id, hook.Exec.Command, timeout)
		if err != nil {
			return fmt.Errorf("%w: %q", err, output[:min(len(output), maxHookOutput)])
		}
		return nil
	case hook.HTTPGet != nil:
		return p.httpHook(ctx, c, hook.HTTPGet)
	case hook.Sleep != nil:
		select {
		case <-p.w.m.cfg.Clock.After(time.Duration(hook.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("it has no handler")
}

func (p *pass) httpHook(ctx context.Context, c *v1.Container, action *v1.HTTPGetAction) error {
	target := probe.Target{Container: c}
	if ips := p.podIPs(); len(ips) > 0 {
		target.PodIP = ips[0]
	}
	req, err := probe.Request(ctx, action, target, probe.HookUserAgent)
	if err != nil {
		return err
	}
	code, _, err := probe.Do(req, action.Protocol)
	if code == 0 && errors.Is(err, http.ErrSchemeMismatch) {
		if code, _, err = probe.Do(withoutTLS(req), action.Protocol); code != 0 {
			p.event(v1.EventTypeWarning, "LifecycleHTTPFallback",
				fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
		}
	}
	if code != 0 { // it was asked for: as with the kubelet the answer does not matter
		return nil
	}
	return err
}

// withoutTLS is the same request in clear, without the credential that was meant for an encrypted connection. Hooks
// have long been asked for so whatever scheme they named, and the kubelet still serves those that rely on it.
func withoutTLS(req *http.Request) *http.Request {
	plain := req.Clone(req.Context())
	plain.URL.Scheme = "http"
	plain.Header.Del("Authorization")
	return plain
}
