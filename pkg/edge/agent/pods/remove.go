package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// terminate makes a pod go: containers, sandboxes, volumes, logs and the record of it, and tells the
// cloud when nothing is left. It goes on where it was interrupted.
func (w *worker) terminate(ctx context.Context, d *desired, deletion *edgeapi.DeletePod) (done bool, err error) {
	p := &pass{w: w, d: d, node: w.m.nodeConfig(), next: resyncPeriod}
	if d != nil {
		p.pod = d.pod
		if w.resize.granted != nil {
			p.pod = w.resize.granted.applyTo(d.pod)
		}
		p.pod = ofGeneration(p.pod, deletion.Generation)
	} else {
		p.pod = remains(deletion)
	}
	w.end()
	if err := p.read(ctx); err != nil {
		return false, err
	}
	if p.st.AnyRunning() {
		p.reportStopping(ctx) // that its deletion was seen
	}
	if err := p.stopAll(ctx, &deletion.GracePeriodSeconds); err != nil {
		return false, err
	}
	w.m.release(w.uid) // before anybody is told, and whether or not the rest can be removed
	last := w.reportFinal(ctx, p)
	if err := p.removeAll(ctx); err != nil {
		return false, err
	}
	p.removeCgroup(ctx)
	if err := w.m.volumes.Teardown(w.uid); err != nil {
		p.event(v1.EventTypeWarning, "FailedKillPod", "error removing volumes: "+err.Error())
		return false, err
	}
	if err := w.removeLogDirs(); err != nil {
		return false, fmt.Errorf("remove logs: %w", err)
	}
	for i := range p.pod.Spec.Containers {
		w.m.backOff.DeleteEntry(backOffKey(p.pod, &p.pod.Spec.Containers[i]))
	}
	if err := w.m.store.Remove(w.uid); err != nil {
		return false, fmt.Errorf("remove record: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Removed pod", "pod", klog.KObj(p.pod))
	w.m.cfg.Sink.PodRemoved(&edgeapi.PodRemoved{Uid: w.uid, Namespace: p.pod.Namespace, Name: p.pod.Name, Status: last})
	return true, nil
}

// removeLogDirs removes the pod's logs, also if its name is not known any more.
func (w *worker) removeLogDirs() error {
	dirs, err := filepath.Glob(podutil.LogDir(w.m.cfg.LogDir, "*", "*", w.uid)) // a valid UID has no special character
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// remains stands for a pod of which only its identity is known.
func remains(deletion *edgeapi.DeletePod) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: deletion.Namespace, Name: deletion.Name, UID: types.UID(deletion.Uid),
	}}
}

// ofGeneration returns the pod as of a later generation. Its deletion raises that, and changes nothing else.
func ofGeneration(pod *v1.Pod, generation int64) *v1.Pod {
	if generation <= pod.Generation {
		return pod
	}
	changed := *pod
	changed.Generation = generation
	return &changed
}

// reportFinal reports how the containers ended, and returns it for the last message as well.
func (w *worker) reportFinal(ctx context.Context, p *pass) []byte {
	if p.d == nil {
		return nil
	}
	s := w.rejected
	if s == nil {
		s = p.finalStatus(w.forcedEnd())
		w.report(ctx, p.pod, s)
	}
	data, err := s.Marshal()
	if err != nil {
		return nil
	}
	return data
}

// removeAll removes the pod's containers and sandboxes from the runtime, which makes sure that they
// are stopped.
func (p *pass) removeAll(ctx context.Context) error {
	var errs []error
	for _, c := range p.st.Containers {
		errs = append(errs, p.removeInstance(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, sandbox := range p.st.Sandboxes {
		// Stopping is what gives the network back; it may be repeated.
		if err := p.w.m.cfg.Runtime.StopPodSandbox(ctx, sandbox.Id); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, p.w.m.cfg.Runtime.RemovePodSandbox(ctx, sandbox.Id))
	}
	return errors.Join(errs...)
}

// removeLogs removes a container's log and what rotation has made of it.
func removeLogs(path string) error {
	if path == "" {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if name := entry.Name(); name == filepath.Base(path) || strings.HasPrefix(name, filepath.Base(path)+".") {
			errs = append(errs, os.Remove(filepath.Join(filepath.Dir(path), name)))
		}
	}
	return errors.Join(errs...)
}
