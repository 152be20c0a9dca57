package pod

import (
	"context"
	"errors"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// syncPod brings a device's idea of a pod up to date.
func (c *Controller) syncPod(ctx context.Context, k key) (time.Duration, error) {
	pod := c.get(k)
	if pod == nil {
		return 0, c.gone(k)
	}
	device, ok := c.config.Owner(k.node)
	if !ok {
		return 0, nil
	}
	st := c.state(device)
	if st == nil {
		return 0, nil // looked at again when the device is back
	}
	if staticpod.IsMirror(pod) {
		c.mirrors.Add(device)
		return 0, nil
	}
	ctx = klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "pod", klog.KObj(pod), "podUID", pod.UID, "edgeDevice", klog.KRef(device.Namespace, device.Name)))

	st.mu.Lock()
	ready := st.desired
	held := st.pods[k.uid] != nil && st.pods[k.uid].held
	st.mu.Unlock()
	switch {
	case !ready:
		return 0, nil // looked at again by syncDevice
	case pod.DeletionTimestamp != nil:
		return 0, c.terminate(st, pod)
	case terminal(pod.Status.Phase):
		c.release(k)
		if !held && hasRun(pod) {
			return 0, c.sendEnded(st, pod)
		}
		return 0, c.end(st, pod)
	}

	if !held {
		if uid := string(k.uid); c.again.IsInBackOffSinceUpdate(uid, c.config.Clock.Now()) {
			return c.again.Get(uid), nil
		}
		if c.leaving(device) {
			return mirrorRetry, nil // its Node may stay after all
		}
		if refused, err := c.refuse(ctx, pod); refused || err != nil {
			return 0, err
		}
	}
	if !c.objects.Use(k, resolve.References(pod)) {
		return 0, nil // looked at again when they were looked up
	}
	resolvePod := c.resolver.Pod
	if held && st.has(edgeapi.FeatureKeptRuntimeHandler) {
		resolvePod = c.resolver.KeptPod
	}
	result, err := resolvePod(ctx, pod)
	if err != nil {
		return c.unresolved(ctx, st, pod, held, result, err)
	}
	again := c.refreshAfter(result)
	if result.KeepsHandler && (again == 0 || again > remindAfter) {
		again = remindAfter // there may be a RuntimeClass of that name again, of another handler
	}
	return again, c.send(st, pod, result)
}

// unresolved deals with a pod of which something is missing. What runs already keeps running with what
// it got, and each of its volumes is kept up to date by itself, as with the kubelet. That holds for a pod that
// the device knows no more, as well: what it was doing when it was last heard of stays in its status.
func (c *Controller) unresolved(ctx context.Context, st *state, pod *corev1.Pod, held bool, result *resolve.Result, err error) (time.Duration, error) {
	missing := (*resolve.Unresolved)(nil)
	ran := held || hasRun(pod)
	switch {
	case !errors.As(err, &missing):
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "FailedMount", "%s", err)
		if held && result != nil {
			err = errors.Join(err, c.sendVolumes(st, pod, result))
		}
		if !ran {
			_, failed := c.writeWaiting(ctx, pod, nil)
			err = errors.Join(err, failed)
		}
		return 0, err
	case missing.OnlyPending(), ran && missing.Pending:
		return 0, nil // looked at again when it was looked up
	case !ran:
		return c.wait(ctx, pod, missing)
	}
	c.warnOfVolumes(pod, missing)
	switch {
	case !held:
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "FailedSync", "The device has lost its record of the pod and is not sent it again yet: %v", missing)
	case pod.Status.ObservedGeneration < pod.Generation:
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "FailedSync", "The device is not told yet what changed in the pod: %v", missing)
	}
	again := remindAfter
	if refresh := c.refreshAfter(result); refresh > 0 {
		again = min(again, refresh)
	}
	return again, c.sendVolumes(st, pod, result)
}

// refreshAfter is how soon the first token of a pod should be replaced, 0 without tokens.
func (c *Controller) refreshAfter(result *resolve.Result) time.Duration {
	if result.Refresh.IsZero() {
		return 0
	}
	return max(result.Refresh.Sub(c.config.Clock.Now()), time.Second)
}

// send sends a pod or its volumes to a device, unless the device has them.
func (c *Controller) send(st *state, pod *corev1.Pod, result *resolve.Result) error {
	message := result.Message
	st.mu.Lock()
	defer st.mu.Unlock()
	p := st.podLocked(pod.UID)
	if p.removed || p.deleting || (result.KeepsHandler && !p.held) {
		return nil
	}
	if !p.held || p.digest != message.GetDigest() {
		run := message
		if p.held && st.has(edgeapi.FeatureKeptVolumes) {
			run = p.withoutKept(result)
		}
		err := st.send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{RunPod: run}})
		if err != nil {
			return c.unsent(st, pod, p, err)
		}
		for _, w := range result.Warnings {
			c.config.Events.Pod(pod, corev1.EventTypeWarning, w.Reason, "%s", w.Message)
		}
		p.held, p.digest = true, message.GetDigest()
		p.accept(result)
	} else if err := c.updateVolumes(st, pod, p, result); err != nil {
		return err
	}
	p.generation = pod.Generation
	return nil
}

// sendVolumes sends to a device that holds a pod what could be resolved of its volumes. The others stay
// as they are.
func (c *Controller) sendVolumes(st *state, pod *corev1.Pod, result *resolve.Result) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := st.pods[pod.UID]
	if p == nil || !p.held || p.deleting {
		return nil
	}
	result.Keep(p.volumes, p.tokens)
	return c.updateVolumes(st, pod, p, result)
}

// updateVolumes sends the volumes of a pod that the device does not have.
func (c *Controller) updateVolumes(st *state, pod *corev1.Pod, p *podState, result *resolve.Result) error {
	message := result.Message
	update := &edgeapi.UpdateVolumes{Uid: message.GetUid(), VolumesDigest: message.GetVolumesDigest()}
	for _, v := range message.GetVolumes() {
		if p.differs(v.GetName(), result) {
			update.Volumes = append(update.Volumes, v)
		}
	}
	if len(update.Volumes) == 0 {
		return nil
	}
	err := st.send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_UpdateVolumes{UpdateVolumes: update}})
	if err != nil {
		return c.unsent(st, pod, p, err)
	}
	p.accept(result)
	return nil
}

// accept records that the device has been sent a pod's volumes.
func (p *podState) accept(result *resolve.Result) {
	p.volumesDigest = result.Message.GetVolumesDigest()
	p.volumes, p.tokens = maps.Clone(result.VolumeDigests), maps.Clone(result.VolumeTokens)
}

// differs says whether a device that holds the pod needs a volume's content. After a reconnect it is
// only known whether all volumes together are as they should be; tokens are always sent anew then,
// because they may have expired.
func (p *podState) differs(volume string, result *resolve.Result) bool {
	if p.volumes == nil {
		return p.volumesDigest != result.Message.GetVolumesDigest() || result.VolumeTokens[volume] != ""
	}
	return p.volumes[volume] != result.VolumeDigests[volume] || p.tokens[volume] != result.VolumeTokens[volume]
}

// withoutKept is the message for a device that holds the pod: volumes may be large, and what changes in a pod is a
// label most often.
func (p *podState) withoutKept(result *resolve.Result) *edgeapi.RunPod {
	m := result.Message
	run := &edgeapi.RunPod{
		Uid: m.GetUid(), Pod: m.GetPod(), Digest: m.GetDigest(), VolumesDigest: m.GetVolumesDigest(),
		RegistryCredentials: m.GetRegistryCredentials(),
	}
	for _, v := range m.GetVolumes() {
		if p.differs(v.GetName(), result) {
			run.Volumes = append(run.Volumes, v)
		} else {
			run.KeptVolumes = append(run.KeptVolumes, v.GetName())
		}
	}
	return run
}

// unsent says what to do about a message that could not be queued: nothing if the link is over, since
// the next one begins anew; otherwise it is tried again later.
func (c *Controller) unsent(st *state, pod *corev1.Pod, p *podState, err error) error {
	if !p.held && !p.deleting {
		delete(st.pods, pod.UID)
	}
	switch {
	case errors.Is(err, gateway.ErrClosed):
		return nil
	case errors.Is(err, gateway.ErrTooLarge):
		// It does not get smaller by itself.
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "PodTooLarge", "The pod cannot be sent to the device: %v. Use fewer or smaller ConfigMaps and Secrets", err)
		return nil
	}
	return err
}

// terminate asks the device to delete a pod.
func (c *Controller) terminate(st *state, pod *corev1.Pod) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := st.podLocked(pod.UID)
	if p.removed {
		c.status.Add(keyOf(pod))
		return nil
	}
	grace := ptr.Deref(pod.DeletionGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	return c.sendDelete(st, p, keyOf(pod), grace, pod.Generation)
}

// end has a device stop a pod of which somebody else has said that it has ended, as the kubelet does. Of
// one that has ended by itself the device keeps the logs until the pod is deleted.
func (c *Controller) end(st *state, pod *corev1.Pod) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := st.pods[pod.UID]
	if !st.desired || p == nil || !p.held || p.status == nil {
		return nil // looked at again when the device has reported
	}
	if reported, ok := decodeStatus(p.status); !ok || reported.Phase == "" || terminal(reported.Phase) {
		return nil
	}
	grace := ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	return c.sendDelete(st, p, keyOf(pod), max(grace, 1), 0)
}

// sendEnded sends a pod that has ended to a device that does not know of it, because it has lost its record
// of it for example: its containers and logs stay there until the pod is deleted.
func (c *Controller) sendEnded(st *state, pod *corev1.Pod) error {
	result, err := resolve.Ended(pod)
	if err != nil {
		return err
	}
	return c.send(st, pod, result)
}

// sendDelete asks the device to delete a pod, unless it was asked to be as quick before. Its status is to tell
// of this generation then, unless that is 0.
func (c *Controller) sendDelete(st *state, p *podState, k key, grace, generation int64) error {
	if p.deleting && p.grace <= grace {
		return nil
	}
	err := st.send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{
		Uid: string(k.uid), Namespace: k.namespace, Name: k.name, GracePeriodSeconds: grace, Generation: generation,
	}}})
	if err != nil && !errors.Is(err, gateway.ErrClosed) {
		return err
	}
	p.deleting, p.grace = true, grace
	return nil
}

// gone forgets a pod that does not exist any more, and has the device drop it at once.
func (c *Controller) gone(k key) error {
	c.release(k)
	var failed error
	for _, st := range c.statesNamed(k.node) {
		st.mu.Lock()
		if len(st.static) > 0 {
			c.mirrors.Add(st.session.Device()) // it may have been one of the mirror pods
		}
		if p := st.pods[k.uid]; p != nil && st.desired {
			if !p.held || p.removed {
				delete(st.pods, k.uid)
			} else if err := c.sendDelete(st, p, k, 0, 0); err != nil {
				failed = err
			}
		}
		st.mu.Unlock()
	}
	return failed
}

// release lets go of what a pod used.
func (c *Controller) release(k key) {
	c.objects.Use(k, nil)
	c.tokens.Forget(k.uid)
	c.again.DeleteEntry(string(k.uid))
}
