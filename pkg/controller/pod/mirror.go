package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/clip"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// maxShown bounds what of a device's report is told to people.
const maxShown = 64

// staticReported takes note of the pods that a device runs by itself. What it says is checked here, whatever it
// has checked itself: it may show pods in the namespace of its EdgeDevice only, under names that end in its
// own, bound to its own Node, and without a reference to anything of the cluster.
func (c *Controller) staticReported(st *state, message *edgeapi.StaticPods) {
	device := st.session.Device()
	static, names := map[types.UID]*corev1.Pod{}, sets.New[string]()
	for i, reported := range message.GetPods() {
		pod, err := mirrorOf(device, reported)
		if i >= staticpod.MaxPods {
			err = fmt.Errorf("a device can show at most %d static pods", staticpod.MaxPods)
		}
		if err == nil && names.Has(pod.Name) {
			err = fmt.Errorf("another one is named %s, too", pod.Name)
		}
		if err != nil {
			c.config.Events.Device(device, corev1.EventTypeWarning, "StaticPodRefused", "Static pod %q of the device is not shown: %v", clip.String(reported.GetUid(), maxShown), err)
			continue
		}
		static[types.UID(reported.GetUid())] = pod
		names.Insert(pod.Name)
	}
	st.mu.Lock()
	st.static = static
	st.mu.Unlock()
	c.mirrors.Add(device)
}

// mirrorOf makes the mirror pod of a static pod. Its owner is added when it is created.
func mirrorOf(device gateway.Device, reported *edgeapi.StaticPod) (*corev1.Pod, error) {
	static := &corev1.Pod{}
	if len(reported.GetPod()) > staticpod.MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", staticpod.MaxSize)
	}
	if err := static.Unmarshal(reported.GetPod()); err != nil {
		return nil, err
	}
	hash := reported.GetUid()
	switch {
	case !staticpod.ValidHash(hash) || string(static.UID) != hash:
		return nil, errors.New("its UID is no hash, or not the one it is reported under")
	case static.Namespace != device.Namespace:
		return nil, fmt.Errorf("its namespace is %q; static pods are shown in the namespace of the EdgeDevice only", clip.String(static.Namespace, maxShown))
	case !strings.HasSuffix(static.Name, staticpod.Suffix(device.Name)):
		return nil, fmt.Errorf("its name does not end in %q", staticpod.Suffix(device.Name))
	}
	if err := staticpod.References(&static.Spec); err != nil {
		return nil, err
	}
	mirror := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: device.Namespace, Name: static.Name, Labels: static.Labels, Annotations: maps.Clone(static.Annotations),
		},
		Spec: static.Spec,
	}
	if mirror.Annotations == nil {
		mirror.Annotations = map[string]string{}
	}
	mirror.Annotations[staticpod.AnnotationMirror] = hash
	mirror.Annotations[staticpod.AnnotationHash] = hash
	mirror.Annotations[staticpod.AnnotationSource] = staticpod.SourceFile
	mirror.Spec.NodeName = device.Name
	return mirror, nil
}

// syncMirrors makes the mirror pods of a device what its static pods are. Nothing is done about those of a
// device that is away.
func (c *Controller) syncMirrors(ctx context.Context, device gateway.Device) (time.Duration, error) {
	st := c.state(device)
	owner, owned := c.config.Owner(device.Name)
	if st == nil || !owned || owner != device {
		return 0, nil
	}
	if c.leaving(device) {
		return mirrorRetry, nil // the Node may stay after all
	}
	st.mu.Lock()
	static := st.static
	st.mu.Unlock()
	if static == nil {
		return 0, nil // it has not said
	}
	now := c.config.Clock.Now()
	if wait := st.spent.wait(now); wait > 0 {
		return wait, nil
	}
	var errs []error
	shown := map[types.UID]bool{}
	for _, pod := range OnNode(c.indexer, device.Name) {
		if !staticpod.IsMirror(pod) {
			continue
		}
		hash := staticpod.UIDOnDevice(pod, device.Namespace)
		if mirror := static[hash]; mirror != nil && mirror.Name == pod.Name && mirror.Namespace == pod.Namespace && pod.DeletionTimestamp == nil && !shown[hash] {
			shown[hash] = true
			c.status.Add(keyOf(pod))
			continue
		}
		st.spent.spend(now)
		errs = append(errs, c.deleteMirror(ctx, pod)) // looked at again when it is gone
	}
	var soonest, again time.Duration
	for hash, mirror := range static {
		if shown[hash] {
			continue
		}
		st.spent.spend(now)
		err := c.createMirror(ctx, mirror)
		switch {
		case apierrors.IsAlreadyExists(err) && !c.nameTaken(ctx, mirror):
			soonest = mirrorRetry // the one before is about to go
		case apierrors.IsAlreadyExists(err), apierrors.IsForbidden(err), apierrors.IsInvalid(err):
			again = retryAfter
			c.config.Events.Device(device, corev1.EventTypeWarning, "FailedCreateMirrorPod", "Static pod %s cannot be shown: %v", mirror.Name, err)
		default:
			errs = append(errs, err)
		}
	}
	return cmp.Or(soonest, again), errors.Join(errs...)
}

// nameTaken says whether a pod that is in the way of a mirror pod is not one of the device, which memory may not know of.
func (c *Controller) nameTaken(ctx context.Context, mirror *corev1.Pod) bool {
	pods, err := c.config.Kube.CoreV1().Pods(mirror.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, mirror.Name).String(),
	})
	return err == nil && slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Name == mirror.Name && (pod.Spec.NodeName != mirror.Spec.NodeName || !staticpod.IsMirror(&pod))
	})
}

// mirrorRetry is how soon it is looked again whether a former mirror pod is gone, or a Node is still to go.
const mirrorRetry = 2 * time.Second

// leaving says whether a device is being deleted, or is not to have a Node any more: its pods are to go.
func (c *Controller) leaving(device gateway.Device) bool {
	ed, err := c.edgeDevices.EdgeDevices(device.Namespace).Get(device.Name)
	return err != nil || ed.UID != device.UID || ed.DeletionTimestamp != nil || ed.Spec.Node.Disabled
}

func (c *Controller) createMirror(ctx context.Context, mirror *corev1.Pod) error {
	object, exists, err := c.config.Nodes.GetIndexer().GetByKey(mirror.Spec.NodeName)
	if err != nil || !exists {
		return err // looked at again when there is a Node
	}
	mirror = mirror.DeepCopy()
	mirror.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: mirror.Spec.NodeName, UID: object.(*corev1.Node).UID, Controller: ptr.To(true),
	}}
	if _, err := c.config.Kube.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create the mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	klog.FromContext(ctx).V(2).Info("Created a mirror pod", "pod", klog.KObj(mirror))
	return nil
}

// deleteMirror removes a mirror pod at once: nothing on the device depends on it.
func (c *Controller) deleteMirror(ctx context.Context, pod *corev1.Pod) error {
	err := c.config.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete the mirror pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
