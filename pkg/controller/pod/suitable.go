package pod

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Why the kubelet refuses pods that are bound to a Node that does not suit them: by its labels and
// taints, which a device does not know. What the device itself has room for is the device's to say.
const (
	reasonNodeAffinity  = "NodeAffinity"
	messageNodeAffinity = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	reasonUntolerated   = "TaintToleration"
	messageUntolerated  = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
)

// refuse fails a pod that its Node does not suit, and tells whether it did. It is asked before a pod is
// sent to a device that does not have it, not of pods that run: a label that changes later stops
// nothing, with or without a link.
func (c *Controller) refuse(ctx context.Context, pod *corev1.Pod) (bool, error) {
	object, exists, err := c.config.Nodes.GetIndexer().GetByKey(pod.Spec.NodeName)
	if err != nil || !exists {
		return false, err
	}
	if reason, _ := unsuitable(ctx, pod, object.(*corev1.Node)); reason == "" {
		return false, nil
	}
	// The scheduler may know the Node better than this memory does.
	live, err := c.config.Kube.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	reason, message := unsuitable(ctx, pod, live)
	if reason == "" {
		return false, nil
	}
	c.config.Events.Pod(pod, corev1.EventTypeWarning, reason, "%s", message)
	now := metav1.NewTime(c.config.Clock.Now())
	status := merge(pod, corev1.PodStatus{
		Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + message, StartTime: &now, ObservedGeneration: pod.Generation,
	}, now)
	_, err = c.write(ctx, pod, &status)
	return err == nil, err
}

// unsuitable returns why a Node does not suit a pod, empty if it does.
func unsuitable(ctx context.Context, pod *corev1.Pod, node *corev1.Node) (reason, message string) {
	// A selector that cannot be parsed matches nothing, as with the kubelet.
	if matches, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !matches {
		return reasonNodeAffinity, messageNodeAffinity
	}
	// Of taints only those matter that would drive the pod away again.
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.FromContext(ctx), node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute
	}, true)
	if untolerated {
		return reasonUntolerated, messageUntolerated
	}
	return "", ""
}
