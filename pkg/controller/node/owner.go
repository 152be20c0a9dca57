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

// Owned says whether a Node stands for this very EdgeDevice.
func Owned(n *corev1.Node, ed *aranya.EdgeDevice) bool {
	return n.Name == ed.Name && n.Annotations[aranya.AnnotationUID] == string(ed.UID)
}
