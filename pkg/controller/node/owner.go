package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Owner returns the EdgeDevice that a Node says it stands for, or false if it is not aranya's.
func Owner(n *corev1.Node) (gateway.Device, bool) {
	d := gateway.Device{
		Namespace: n.Labels[aranya.LabelNamespace],
		Name:      n.Labels[aranya.LabelName],
		UID:       types.UID(n.Annotations[aranya.AnnotationUID]),
	}
	return d, d.UID != "" && d.Namespace != "" && d.Name == n.Name
}

// Former returns the UID of the former EdgeDevice of this namespace and name that a Node stands for, or false if it
// stands for none.
func Former(n *corev1.Node, ed *aranya.EdgeDevice) (types.UID, bool) {
	owner, ok := Owner(n)
	return owner.UID, ok && owner.Namespace == ed.Namespace && owner.Name == ed.Name && owner.UID != ed.UID
}

// Left says whether a Node is left though its EdgeDevice does not exist: there was none at all at some start, and
// the next one, with some, knows of that by nothing else.
func Left(n *corev1.Node) bool { return n.Annotations[aranya.AnnotationMissing] != "" }

// Owned says whether a Node stands for this very EdgeDevice.
func Owned(n *corev1.Node, ed *aranya.EdgeDevice) bool {
	return n.Name == ed.Name && n.Annotations[aranya.AnnotationUID] == string(ed.UID)
}
