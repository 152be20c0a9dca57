package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the conditions of an EdgeDevice. They are part of the interface, as the types are.
const (
	// ReasonCertificateIssued and ReasonNotEnrolled go with EdgeDeviceEnrolled.
	ReasonCertificateIssued = "CertificateIssued"
	ReasonNotEnrolled       = "NotEnrolled"
	// ReasonConnected and the next three go with EdgeDeviceConnected.
	ReasonConnected      = "LinkUp"
	ReasonNeverConnected = "NeverConnected"
	ReasonDisconnected   = "LinkLost"
	// ReasonAfterRestart says that a device did not come back after a restart of aranya.
	ReasonAfterRestart = "NotReconnected"
	// ReasonNodeDisabled and the next four go with EdgeDeviceNodeReady, beside the reasons of the Node.
	ReasonNodeDisabled = "NodeDisabled"
	ReasonNoNode       = "NodeNotCreated"
	ReasonConflict     = "NodeNameConflict"
	// ReasonNodeInvalid says that no Node can be made of what the device or its spec say.
	ReasonNodeInvalid = "NodeInvalid"
	// ReasonNodeRefused says that the cluster does not let aranya write the Node.
	ReasonNodeRefused = "NodeRefused"
)

// NotEnrolled is the condition of a device without an agent.
func NotEnrolled(namespace, name string) metav1.Condition {
	return metav1.Condition{
		Type: EdgeDeviceEnrolled, Status: metav1.ConditionFalse, Reason: ReasonNotEnrolled,
		Message: fmt.Sprintf("No agent has enrolled: create a token with \"kubectl edge token %s -n %s\" and use it with \"arhat join\" on the device", name, namespace),
	}
}

// Enrolled is the condition of a device whose agent holds a certificate.
func Enrolled() metav1.Condition {
	return metav1.Condition{
		Type: EdgeDeviceEnrolled, Status: metav1.ConditionTrue, Reason: ReasonCertificateIssued, Message: "The device's agent holds a certificate",
	}
}

// NeverConnected is the condition of a device that has had no link yet.
func NeverConnected() metav1.Condition {
	return metav1.Condition{
		Type: EdgeDeviceConnected, Status: metav1.ConditionFalse, Reason: ReasonNeverConnected, Message: "The device has not connected yet",
	}
}

// NoNode is the condition of a device that has no Node: not yet, or none at all.
func NoNode(disabled bool) metav1.Condition {
	if disabled {
		return metav1.Condition{
			Type: EdgeDeviceNodeReady, Status: metav1.ConditionFalse, Reason: ReasonNodeDisabled,
			Message: "The device has no Node because spec.node.disabled is set",
		}
	}
	return metav1.Condition{
		Type: EdgeDeviceNodeReady, Status: metav1.ConditionFalse, Reason: ReasonNoNode,
		Message: "The Node is created when the device connects",
	}
}

// InitialConditions are those of an EdgeDevice that was just created.
func InitialConditions(namespace, name string, nodeDisabled bool, generation int64, now metav1.Time) []metav1.Condition {
	conditions := []metav1.Condition{NotEnrolled(namespace, name), NeverConnected(), NoNode(nodeDisabled)}
	for i := range conditions {
		conditions[i].ObservedGeneration, conditions[i].LastTransitionTime = generation, now
	}
	return conditions
}
