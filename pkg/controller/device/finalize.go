package device

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// errDeleted is told to a device whose EdgeDevice is gone. By the code it knows that to come back soon is
// of no use.
var errDeleted = status.Error(codes.PermissionDenied, "the EdgeDevice was deleted")

// finalize removes what belongs to an EdgeDevice that is being deleted: the pods on its Node, the
// link, the Node with its Lease, at last the finalizer. New links are refused by the gateway.
func (c *Controller) finalize(ctx context.Context, ed *aranya.EdgeDevice) (time.Duration, error) {
	key := types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}
	session := c.config.Tracker.Session(key, ed.UID)
	var n *corev1.Node
	if slices.Contains(ed.Finalizers, aranya.FinalizerNode) {
		var err error
		if n, err = c.config.Nodes.Of(ctx, ed); err != nil {
			return 0, err
		}
	}
	if n != nil {
		again, err := c.config.Nodes.Drain(ctx, n, session != nil)
		if err != nil || again > 0 {
			return again, err
		}
	}
	if session != nil {
		c.config.Disconnect(session.Device(), errDeleted)
	}
	if n != nil {
		if err := c.config.Nodes.Delete(ctx, n); err != nil {
			return 0, err
		}
	}
	return 0, c.removeFinalizer(ctx, ed)
}

func (c *Controller) removeFinalizer(ctx context.Context, ed *aranya.EdgeDevice) error {
	if !slices.Contains(ed.Finalizers, aranya.FinalizerNode) {
		return nil
	}
	ed = ed.DeepCopy()
	ed.Finalizers = slices.DeleteFunc(ed.Finalizers, func(f string) bool { return f == aranya.FinalizerNode })
	_, err := c.config.Edge.AranyaV1alpha1().EdgeDevices(ed.Namespace).Update(ctx, ed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the finalizer %s: %w", aranya.FinalizerNode, err)
	}
	klog.FromContext(ctx).Info("Removed what belonged to the deleted EdgeDevice")
	return nil
}
