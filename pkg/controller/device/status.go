package device

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// status returns what the stored status of an EdgeDevice should be, and when to look again if only
// time can tell.
func (c *Controller) status(ctx context.Context, ed *aranya.EdgeDevice) (*aranya.EdgeDeviceStatus, time.Duration) {
	status := ed.Status.DeepCopy()
	status.ObservedGeneration = ed.Generation
	status.Link, status.Usage, status.Traffic = nil, nil, nil // exist on reads only
	var set setCondition = func(t string, s metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: t, Status: s, Reason: reason, Message: message,
			ObservedGeneration: ed.Generation, LastTransitionTime: metav1.NewTime(c.config.Clock.Now()),
		})
	}
	if ed.Status.Certificate != nil {
		set.condition(aranya.Enrolled())
	} else {
		set.condition(aranya.NotEnrolled(ed.Namespace, ed.Name))
	}
	c.broker(ed, status, set)
	again := c.connection(ctx, ed, status, set)
	n, conflict := c.node(ed)
	status.NodeName = ""
	if n != nil {
		status.NodeName = n.Name
	}
	nodeReady(ed, n, conflict, c.config.NodeProblem(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}), set)
	return status, again
}

// broker fills in whether the MQTT broker of a device can be reached. As long as that is not known the
// condition stays as it is.
func (c *Controller) broker(ed *aranya.EdgeDevice, status *aranya.EdgeDeviceStatus, set setCondition) {
	if ed.Spec.Connectivity.Method != aranya.ConnectivityMQTT {
		meta.RemoveStatusCondition(&status.Conditions, aranya.EdgeDeviceBrokerConnected)
		return
	}
	state, known := c.config.Broker(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
	if !known || state.Reason == "" {
		return
	}
	value := metav1.ConditionFalse
	if state.Connected {
		value = metav1.ConditionTrue
	}
	set(aranya.EdgeDeviceBrokerConnected, value, state.Reason, clip.String(state.Message, maxMessage))
}

type setCondition func(t string, s metav1.ConditionStatus, reason, message string)

func (set setCondition) condition(c metav1.Condition) { set(c.Type, c.Status, c.Reason, c.Message) }

// connection fills in what follows from the link.
func (c *Controller) connection(ctx context.Context, ed *aranya.EdgeDevice, status *aranya.EdgeDeviceStatus, set setCondition) (again time.Duration) {
	key := types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}
	if s := c.config.Tracker.Session(key, ed.UID); s != nil {
		status.Phase = aranya.EdgeDeviceOnline
		set(aranya.EdgeDeviceConnected, metav1.ConditionTrue, aranya.ReasonConnected, "The device is connected over "+s.Info().Method)
		c.facts(ctx, s, status)
		return 0
	}
	if connected := meta.FindStatusCondition(ed.Status.Conditions, aranya.EdgeDeviceConnected); connected != nil {
		set.condition(*connected) // holds for the present generation, too, unless there is news of the link
	} else {
		set.condition(aranya.NeverConnected())
	}
	history, known := c.history(gateway.DeviceOf(ed))
	wasConnected := meta.IsStatusConditionTrue(ed.Status.Conditions, aranya.EdgeDeviceConnected)
	wait, patience := c.grace(), c.config.Tracker.Patience(history.lostAt) // each asked once: time goes on
	switch {
	case wasConnected && c.config.Tracker.Stopping():
		return c.config.ReconnectGrace // it is to go to the next aranya
	case known && history.down && wasConnected && patience > 0:
		return patience // it may come back before anybody has to know
	case known && history.down:
		set(aranya.EdgeDeviceConnected, metav1.ConditionFalse, aranya.ReasonDisconnected, clip.String(history.lost, maxMessage))
		if !history.lastSeen.IsZero() {
			status.LastSeen = &metav1.Time{Time: history.lastSeen}
		}
	case wasConnected && wait > 0:
		return wait // since before the start of aranya: it may come back
	case wasConnected:
		set(aranya.EdgeDeviceConnected, metav1.ConditionFalse, aranya.ReasonAfterRestart, "The device did not connect since aranya was started")
		if seen := c.LastSeen(ed); !seen.IsZero() {
			status.LastSeen = &metav1.Time{Time: seen}
		}
	}
	status.Phase = aranya.EdgeDeviceOffline
	if ed.Status.Certificate == nil {
		status.Phase = aranya.EdgeDevicePending
	}
	return 0
}

// facts fills in what a connected device says of itself. When it was last heard of is only stored when
// something else changes.
func (c *Controller) facts(ctx context.Context, s gateway.Session, status *aranya.EdgeDeviceStatus) {
	status.AgentVersion = clip.String(s.Hello().GetAgentVersion(), maxVersion)
	status.LastSeen = &metav1.Time{Time: s.Info().LastSeen}
	reported, err := node.Decode(c.config.Tracker.NodeStatus(s))
	if err != nil {
		// The device's own fault, and as often as it likes: package node tells of it.
		klog.FromContext(ctx).V(4).Info("The device reports something unusable about itself", "err", err)
		return
	}
	status.Device = Info(reported)
}

const (
	// maxVersion bounds the version that an agent gives.
	maxVersion = 64
	// maxMessage bounds why a link was lost and why a Node is not ready, part of which may come from the device.
	maxMessage = 1024
)

// Info converts what a device reports on itself, see node.Decode.
func Info(reported *corev1.NodeStatus) *aranya.DeviceInfo {
	return &aranya.DeviceInfo{
		OperatingSystem:         reported.NodeInfo.OperatingSystem,
		Architecture:            reported.NodeInfo.Architecture,
		KernelVersion:           reported.NodeInfo.KernelVersion,
		OSImage:                 reported.NodeInfo.OSImage,
		MachineID:               reported.NodeInfo.MachineID,
		BootID:                  reported.NodeInfo.BootID,
		ContainerRuntimeVersion: reported.NodeInfo.ContainerRuntimeVersion,
		Addresses:               reported.Addresses,
		Capacity:                reported.Capacity,
		Allocatable:             reported.Allocatable,
	}
}

// node returns the Node of an EdgeDevice, or how another one stands in its way.
func (c *Controller) node(ed *aranya.EdgeDevice) (own *corev1.Node, conflict string) {
	object, exists, err := c.config.NodeInformer.GetIndexer().GetByKey(ed.Name)
	if err != nil || !exists {
		return nil, ""
	}
	n := object.(*corev1.Node)
	if node.Owned(n, ed) {
		return n, ""
	}
	return nil, conflictOf(ed, n)
}

// conflictOf says how a Node that is not an EdgeDevice's stands in its way, nothing if it is about to be removed.
func conflictOf(ed *aranya.EdgeDevice, n *corev1.Node) string {
	uid, former := node.Former(n, ed)
	switch {
	case !former:
		return fmt.Sprintf("Node %s exists already and is not this EdgeDevice's. "+
			"It is not touched; the device gets its Node when that one is gone. Or create the EdgeDevice under another name", n.Name)
	case node.Left(n):
		return fmt.Sprintf("Node %s stands for a former EdgeDevice of this name (UID %s). It is left with its pods, because there was no EdgeDevice at all "+
			"when aranya started: restore its database, or delete the Node, and the device gets another one", n.Name, uid)
	}
	return ""
}

// nodeReady mirrors the Ready condition of the Node, or tells why there is none.
func nodeReady(ed *aranya.EdgeDevice, n *corev1.Node, conflict string, problem node.Problem, set setCondition) {
	const t = aranya.EdgeDeviceNodeReady
	switch {
	case n == nil && ed.Spec.Node.Disabled:
		set.condition(aranya.NoNode(true))
	case conflict != "":
		set(t, metav1.ConditionFalse, aranya.ReasonConflict, conflict)
	case n == nil && problem != node.Problem{}:
		set(t, metav1.ConditionFalse, problem.Reason, problem.Message)
	case n == nil:
		set.condition(aranya.NoNode(false))
	default:
		ready := node.Ready(n)
		if ready == nil {
			set(t, metav1.ConditionUnknown, aranya.ReasonNoNode, "The Node has no Ready condition yet")
			return
		}
		reason := ready.Reason
		if len(metav1validation.IsValidConditionReason(reason)) > 0 { // a Node may have any, or none, and a device says it
			reason = "NodeStatus" + string(ready.Status)
		}
		set(t, metav1.ConditionStatus(ready.Status), reason, clip.String(ready.Message, maxMessage))
	}
}

// same says whether a stored status needs no write. When the device was last heard of is no reason.
func same(stored, status *aranya.EdgeDeviceStatus) bool {
	return stored.Phase == status.Phase &&
		stored.AgentVersion == status.AgentVersion &&
		stored.NodeName == status.NodeName &&
		stored.ObservedGeneration == status.ObservedGeneration &&
		apiequality.Semantic.DeepEqual(stored.Conditions, status.Conditions) &&
		apiequality.Semantic.DeepEqual(stored.Device, status.Device)
}
