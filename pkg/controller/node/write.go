package node

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/patch"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// writeStatus patches the status of a Node, if it differs. It returns the Node as it is then, because
// the one in memory lags behind.
func (c *Controller) writeStatus(ctx context.Context, n *corev1.Node, status corev1.NodeStatus) (*corev1.Node, error) {
	if sameStatus(&n.Status, &status) {
		return n, nil
	}
	data, err := patch.Strategic(n.UID, corev1.Node{Status: n.Status}, corev1.Node{Status: status})
	if err != nil || data == nil {
		return n, err
	}
	written, err := c.config.Kube.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("write status of Node %s: %w", n.Name, err)
	}
	c.written.Mutation(written)
	c.tellReboot(n, written)
	c.tellReady(n, written)
	return written, nil
}

// adjust gives the Node what its EdgeDevice wants in metadata and spec, if it differs. It returns the Node as it
// is then.
func (c *Controller) adjust(ctx context.Context, ed *aranya.EdgeDevice, n *corev1.Node, info corev1.NodeSystemInfo, ready bool) (*corev1.Node, error) {
	data, withheld, err := drift(n, ed, info, ready, metav1.NewTime(c.config.Clock.Now()))
	if err != nil || data == nil {
		return n, err
	}
	written, err := c.config.Kube.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil {
		return nil, fmt.Errorf("adjust Node %s: %w", n.Name, err)
	}
	if len(withheld) > 0 {
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, "NodeSpecWithheld", "The Node has from somebody else, with other values than "+
			"spec.node wants: %s. These stay as they are until they are taken off the Node", strings.Join(withheld, ", "))
	}
	c.written.Mutation(written)
	return written, nil
}

// untaint takes off a Node that was just created what admission has put on it, if it is ready and no policy of
// the cluster (artifacts/ready-nodes-policy.yaml) has done so. To replace what is known whole costs the API server less
// than a patch; should somebody have been faster, the informer leads to adjust.
func (c *Controller) untaint(ctx context.Context, n *corev1.Node, ready bool) error {
	taints := withoutTaints(n.Spec.Taints, lifecycleTaints)
	if !ready || len(taints) == len(n.Spec.Taints) {
		return nil
	}
	n = n.DeepCopy()
	n.Spec.Taints = taints
	// The same for what controller-manager would correct meanwhile, and for what the API server adds anyway.
	n.Annotations[corev1.ObjectTTLAnnotationKey] = strconv.Itoa(ttlSeconds(c.census.size()))
	n.ManagedFields = nil
	written, err := c.config.Kube.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("untaint Node %s: %w", n.Name, err)
	}
	c.written.Mutation(written)
	return nil
}

// ensureFinalizer sees to it that an EdgeDevice does not go before its Node does.
func (c *Controller) ensureFinalizer(ctx context.Context, ed *aranya.EdgeDevice) error {
	if hasFinalizer(ed) {
		return nil
	}
	ed = ed.DeepCopy()
	ed.Finalizers = append(ed.Finalizers, aranya.FinalizerNode)
	_, err := c.config.Edge.AranyaV1alpha1().EdgeDevices(ed.Namespace).Update(ctx, ed, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("add the finalizer %s: %w", aranya.FinalizerNode, err)
	}
	return nil
}

func hasFinalizer(ed *aranya.EdgeDevice) bool {
	return slices.Contains(ed.Finalizers, aranya.FinalizerNode)
}

// replaceFormer deals with a Node that is not this EdgeDevice's, or not any more. If it stands for a former EdgeDevice
// of the same namespace and name, whose finalizer was taken off by force, it is removed; but not if that was lost with the
// whole database, which may be restored. Any other is never touched: the conflict shows in the condition NodeReady
// until that Node is gone.
func (c *Controller) replaceFormer(ctx context.Context, ed *aranya.EdgeDevice, n *corev1.Node) error {
	c.leases.stop(n.Name, ed.UID)
	uid, former := Former(n, ed)
	if !former {
		return nil
	}
	if left, err := c.keepLeft(ctx, n); left || err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Removing the Node of a former EdgeDevice of this name", "formerUID", uid)
	if err := c.deleteNode(ctx, n); err != nil {
		return err
	}
	c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "NodeDeleted", "Deleted Node %s, which stood for a former EdgeDevice of this name (UID %s)", n.Name, uid)
	return nil
}
