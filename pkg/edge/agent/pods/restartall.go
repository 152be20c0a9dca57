package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

// restartAllTrigger returns a container of the sandbox of now whose exit makes all containers of the
// pod, init containers among them, start anew; nil if there is none.
func restartAllTrigger(pod *v1.Pod, st *state.Pod) *state.Container {
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if instance := st.FindActive(c.Name); instance != nil && instance.Exited() && restartpolicy.RestartsAll(c, instance.ExitCode) {
				return instance
			}
		}
	}
	return nil
}

// restartAll stops, without a grace period, and removes all containers in the sandbox but for ephemeral
// ones, so that the pod begins from the start in it. The one that caused it goes last: until then an
// interruption changes nothing. It is subject to the back-off of that container.
func (p *pass) restartAll(ctx context.Context, trigger *state.Container) error {
	c := podutil.FindContainer(p.pod, trigger.Name)
	s := &starter{pass: p}
	if s.inBackOff(c) {
		return nil
	}
	p.event(v1.EventTypeNormal, string(v1.AllContainersRestarting), fmt.Sprintf("Container %s exited with code %d: all containers are restarted", trigger.Name, trigger.ExitCode))
	var kills []kill
	for _, instance := range p.st.Containers {
		if instance.Running() && !p.isEphemeral(instance.Name) {
			kills = append(kills, kill{instance: instance})
		}
	}
	if err := p.killContainers(ctx, kills, new(int64)); err != nil {
		return err
	}
	if err := p.read(ctx); err != nil {
		return err
	}
	p.w.report(ctx, p.pod, p.status()) // how they ended is not to be seen any more after this
	s.noteStart(c)
	var errs []error
	for _, instance := range p.st.Containers {
		if instance.ID != trigger.ID && !p.isEphemeral(instance.Name) {
			errs = append(errs, p.forget(ctx, instance))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	clear(p.w.reasons)
	if err := p.forget(ctx, trigger); err != nil {
		return err
	}
	p.changed = true
	return nil
}

func (p *pass) isEphemeral(name string) bool {
	for i := range p.pod.Spec.EphemeralContainers {
		if p.pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// forget removes a container from the runtime. Its newest log stays: its name tells how often the
// container has been started.
func (p *pass) forget(ctx context.Context, instance *state.Container) error {
	if newest := p.st.Find(instance.Name); newest.ID != instance.ID {
		return p.removeInstance(ctx, instance)
	}
	if err := p.w.m.cfg.Runtime.RemoveContainer(ctx, instance.ID); err != nil {
		return fmt.Errorf("remove container %s: %w", instance.Name, err)
	}
	dir := filepath.Dir(instance.LogPath)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil //nolint:nilerr // a container that was never started has no log
	}
	var errs []error
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), ".")
		if n, err := strconv.Atoi(number); err == nil && n < instance.RestartCount {
			errs = append(errs, os.Remove(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}
