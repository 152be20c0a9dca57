package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// apply does what computeActions says, after it has given running containers the resources that they
// were granted.
func (p *pass) apply(ctx context.Context) error {
	a := computeActions(p.pod, p.st, p.w.m.probes.verdict)
	p.leaveOutForbidden(&a)
	resizeErr := p.bringIntoForce(ctx, &a)
	return errors.Join(resizeErr, p.act(ctx, a))
}

func (p *pass) act(ctx context.Context, a actions) error {
	starts := len(a.initToStart)+len(a.toStart)+len(a.ephemeralToStart) > 0
	// The content of volumes follows the cloud even if nothing else is to be done.
	mounted, volumesErr := p.mountVolumes(starts)
	if volumesErr != nil {
		p.later(errorPeriod)
	}
	if a.none() {
		return volumesErr
	}
	klog.FromContext(ctx).V(3).Info("Pod needs actions", "pod", klog.KObj(p.pod), "actions", fmt.Sprintf("%+v", a))
	if a.restartAll != nil {
		return p.restartAll(ctx, a.restartAll)
	}
	if a.killPod {
		if err := p.stopForGood(ctx, a.createSandbox); err != nil || !a.createSandbox {
			return err
		}
		if err := p.purgeInit(ctx); err != nil {
			return err
		}
	} else if len(a.toKill) > 0 {
		if err := p.killContainers(ctx, a.toKill, nil); err != nil {
			return err
		}
		p.changed = true
	}
	if !starts || volumesErr != nil {
		return volumesErr
	}
	if a.createSandbox {
		return p.createSandbox(ctx, a.attempt)
	}
	return p.startContainers(ctx, a, criconfig.Files{Volumes: p.w.m.volumes, Mounted: mounted})
}

// stopForGood stops what is left of the sandbox before. One that is not ready may still hold its network.
func (p *pass) stopForGood(ctx context.Context, recreate bool) error {
	active := p.st.AnyRunning() || p.st.ReadySandbox() != nil
	if len(p.st.Sandboxes) == 0 || (!active && !recreate) {
		return nil
	}
	if recreate {
		p.event(v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	if err := p.killPod(ctx, nil); err != nil {
		return err
	}
	p.changed = p.changed || active
	return nil
}

func (p *pass) event(eventType, reason, message string) {
	p.w.m.events.event(p.w.uid, "", eventType, reason, message)
}

// containerEvent records an event about one container.
func (p *pass) containerEvent(name, eventType, reason, message string) {
	p.w.m.events.event(p.w.uid, podutil.FieldPath(p.pod, name), eventType, reason, message)
}

// waiting tells whether what failed may not be tried again yet.
func (p *pass) waiting(name string) bool {
	at, ok := p.w.retryAt[name]
	if ok && p.now().Before(at) {
		p.later(at.Sub(p.now()))
		return true
	}
	delete(p.w.retryAt, name)
	return false
}

// failed makes sure that what failed is not tried again at once.
func (p *pass) failed(name string, after time.Duration) {
	p.w.retryAt[name] = p.now().Add(after)
	p.later(after)
}

// createSandbox makes the pod's sandbox. Its containers are started in the next pass, which knows the
// addresses.
func (p *pass) createSandbox(ctx context.Context, attempt uint32) error {
	if p.waiting("") {
		return nil
	}
	p.makeCgroup(ctx)
	p.node.CgroupParent = p.cgroupParent(ctx)
	config, warnings, err := criconfig.Sandbox(p.pod, p.node, attempt)
	for _, warning := range warnings {
		p.event(v1.EventTypeWarning, "DNSConfigForming", warning)
	}
	if err == nil {
		err = os.MkdirAll(config.LogDirectory, 0o755)
	}
	var id string
	if err == nil {
		err = finishing(ctx, func(ctx context.Context) error {
			id, err = p.w.m.cfg.Runtime.RunPodSandbox(ctx, config, p.runtimeHandler())
			return err
		})
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.event(v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
		p.failed("", errorPeriod)
		p.changed = true // the runtime may have kept a part of it
		return fmt.Errorf("create sandbox: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Created pod sandbox", "pod", klog.KObj(p.pod), "sandboxID", id)
	p.changed = true
	return nil
}

// runtimeHandler is the runtime's own name for the pod's RuntimeClass: the cloud has replaced the one by the other.
func (p *pass) runtimeHandler() string {
	if p.pod.Spec.RuntimeClassName == nil {
		return ""
	}
	return *p.pod.Spec.RuntimeClassName
}

// purgeInit removes the init containers of the sandbox before: they have to run again.
func (p *pass) purgeInit(ctx context.Context) error {
	var errs []error
	for i := range p.pod.Spec.InitContainers {
		for _, c := range p.st.Containers {
			if c.Name == p.pod.Spec.InitContainers[i].Name {
				errs = append(errs, p.w.m.cfg.Runtime.RemoveContainer(ctx, c.ID))
			}
		}
	}
	return errors.Join(errs...)
}

// startContainers starts containers in the pod's sandbox, in order. Those that come after one whose
// image is still being pulled wait for it, as the order of starts is part of what users rely on.
func (p *pass) startContainers(ctx context.Context, a actions, files criconfig.Files) error {
	sandbox := p.st.ReadySandbox()
	p.node.CgroupParent = p.cgroupParent(ctx)
	config, _, err := criconfig.Sandbox(p.pod, p.node, a.attempt)
	if err != nil {
		return err
	}
	s := &starter{pass: p, sandbox: sandbox.Id, config: config, files: files}
	var errs []error
	for _, i := range a.ephemeralToStart {
		ec := &p.pod.Spec.EphemeralContainers[i]
		_, err := s.start(ctx, (*v1.Container)(&ec.EphemeralContainerCommon), ec.TargetContainerName)
		errs = append(errs, err)
	}
	for _, i := range a.initToStart {
		c := &p.pod.Spec.InitContainers[i]
		started, err := s.start(ctx, c, "")
		errs = append(errs, err)
		if !started && !podutil.IsSidecar(c) {
			return withoutPulling(errs)
		}
	}
	for _, i := range a.toStart {
		_, err := s.start(ctx, &p.pod.Spec.Containers[i], "")
		errs = append(errs, err)
		if errors.Is(err, errPulling) {
			break
		}
	}
	return withoutPulling(errs)
}

// keptInstances of a container are kept in the runtime: the newest, and the one before it for its log
// and how it ended.
const keptInstances = 2

// kept is how many instances of a container stay: fewer when the disk is short, see Manager.RemoveDead.
// The status of a pod that has ended is on record.
func (w *worker) kept() int {
	switch {
	case !w.sweeping:
		return keptInstances
	case w.ended:
		return 0
	}
	return 1
}

// prune removes what is of no use any more: older instances of containers that do not run, sandboxes that
// have ended, are not the newest and hold no container, and files of what was removed before.
func (p *pass) prune(ctx context.Context) error {
	keep := p.w.kept()
	if keep == 0 {
		return errors.Join(p.removeEnded(ctx), p.pruneLogs(0))
	}
	kept := map[string]int{}
	holds := map[string]bool{}
	errs := []error{p.pruneLogs(keep), p.pruneTerminationFiles()}
	for _, c := range p.st.Containers { // newest first
		if kept[c.Name] < keep || c.Running() {
			kept[c.Name]++
			holds[c.SandboxID] = true
			continue
		}
		errs = append(errs, p.removeInstance(ctx, c))
	}
	for i, sandbox := range p.st.Sandboxes {
		if i > 0 && sandbox.State != runtimeapi.PodSandboxState_SANDBOX_READY && !holds[sandbox.Id] {
			errs = append(errs, p.w.m.cfg.Runtime.RemovePodSandbox(ctx, sandbox.Id))
		}
	}
	return errors.Join(errs...)
}

// pruneTerminationFiles removes those that belong to no instance: not any more, or never, as when it could
// not be created. They go by their name, which is no other's: the runtime may tell of the directory by another.
func (p *pass) pruneTerminationFiles() error {
	used := map[string]bool{}
	for _, c := range p.st.Containers {
		used[filepath.Base(c.TerminationFile)] = true
	}
	var errs []error
	for c := range podutil.Containers(p.pod) {
		dir := criconfig.TerminationDir(p.w.m.volumes.PodDir(p.w.uid), c.Name)
		entries, _ := os.ReadDir(dir) // not there before the first start
		for _, entry := range entries {
			if !used[entry.Name()] {
				errs = append(errs, os.Remove(filepath.Join(dir, entry.Name())))
			}
		}
	}
	return errors.Join(errs...)
}
