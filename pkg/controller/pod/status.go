package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/patch"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// syncStatus brings the status of a pod up to what its device reported last, and completes the
// deletion of a pod of which nothing is left.
func (c *Controller) syncStatus(ctx context.Context, k key) (time.Duration, error) {
	pod := c.get(k)
	if pod == nil {
		return 0, nil
	}
	device, ok := c.config.Owner(k.node)
	if !ok {
		return 0, nil
	}
	st := c.state(device)
	if st == nil {
		return 0, nil // the device reports again when it is back
	}
	st.mu.Lock()
	p := st.pods[staticpod.UIDOnDevice(pod, device.Namespace)]
	if p == nil || p.finished || (p.status == nil && !p.removed) {
		st.mu.Unlock()
		return 0, nil
	}
	now := c.config.Clock.Now()
	if wait := max(podPace.Wait(p.spent, now), st.spent.wait(now)); wait > 0 && (!p.removed || pod.DeletionTimestamp == nil) {
		st.mu.Unlock()
		return wait, nil
	}
	encoded, removed, generation, counted := p.status, p.removed, p.generation, p.counted
	p.counted = true
	st.mu.Unlock()
	if !counted {
		st.spend(p, now) // whatever comes of it: it costs time to see that nothing changes
	}

	status := pod.Status.DeepCopy()
	if encoded != nil {
		reported, ok := decodeStatus(encoded)
		switch {
		case ok:
			if reported.ObservedGeneration == 0 {
				reported.ObservedGeneration = generation
			}
			*status = merge(pod, reported, metav1.NewTime(now))
		case !removed:
			refused(st, k.uid, "undecodable status")
			return 0, nil
		}
	}
	if pod.DeletionTimestamp == nil && terminal(pod.Status.Phase) {
		if err := c.end(st, pod); err != nil {
			return 0, err
		}
	}
	gone := removed && pod.DeletionTimestamp != nil
	if gone {
		fail(status, metav1.NewTime(now))
	}
	if counted && !apiequality.Semantic.DeepEqual(&pod.Status, status) {
		st.spend(p, now)
	}
	again, err := c.write(ctx, pod, status)
	if again > 0 && gone { // the device says nothing else any more: that much is known without it
		status = pod.Status.DeepCopy()
		fail(status, metav1.NewTime(now))
		_, err = c.write(ctx, pod, status)
		again = 0
	}
	if again > 0 || err != nil {
		return again, err
	}
	if removed {
		return 0, c.finish(ctx, st, p, pod)
	}
	return 0, nil
}

// fail says of a pod of which nothing runs any more, if it ever did, that it has failed: it does not end well without
// having said so.
func fail(status *corev1.PodStatus, now metav1.Time) {
	if !terminal(status.Phase) {
		status.Phase = corev1.PodFailed
		settle(status, now)
	}
}

func decodeStatus(encoded []byte) (status corev1.PodStatus, ok bool) {
	err := status.Unmarshal(encoded)
	return status, err == nil
}

// write patches the status of a pod, if it differs.
func (c *Controller) write(ctx context.Context, pod *corev1.Pod, status *corev1.PodStatus) (again time.Duration, err error) {
	data, err := patch.Strategic(pod.UID, corev1.Pod{Status: pod.Status}, corev1.Pod{Status: *status})
	if err != nil || data == nil {
		return 0, err
	}
	written, err := c.config.Kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		c.written.Mutation(written)
		return 0, nil
	case apierrors.IsNotFound(err):
		return 0, nil
	case apierrors.IsInvalid(err):
		// The device said something that cannot be. More of the same would not help.
		klog.FromContext(ctx).Error(err, "The status that the device reports is invalid", "pod", klog.KObj(pod))
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "InvalidStatus", "The device reports an invalid status: %v", err)
		return retryAfter, nil
	}
	return 0, fmt.Errorf("write status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// finish is called when nothing of a pod is left on its device, and its status is written.
func (c *Controller) finish(ctx context.Context, st *state, p *podState, pod *corev1.Pod) error {
	if pod.DeletionTimestamp == nil {
		if terminal(pod.Status.Phase) {
			return nil
		}
		// It should still be there: begin anew, ever later if it never stays.
		st.mu.Lock()
		delete(st.pods, pod.UID)
		st.mu.Unlock()
		c.again.Next(string(pod.UID), c.config.Clock.Now())
		c.sync.AddAfter(keyOf(pod), c.again.Get(string(pod.UID)))
		return nil
	}
	if len(pod.Finalizers) > 0 && ptr.Deref(pod.DeletionGracePeriodSeconds, 1) == 0 {
		return nil // done here; others still have to let go of it
	}
	err := c.config.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0),
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("complete the deletion of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	st.mu.Lock()
	p.finished = true
	st.mu.Unlock()
	return nil
}
