package node

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Labels that controller-manager would derive from those of today.
const (
	labelBetaOS   = "beta.kubernetes.io/os"
	labelBetaArch = "beta.kubernetes.io/arch"
)

// metricsPath is where the kubelet endpoint serves the resource metrics of a Node.
func metricsPath(nodeName string) string { return "/nodes/" + nodeName + "/metrics/resource" }

// wish is what aranya wants of a Node's metadata and spec. What else is there belongs to others.
type wish struct {
	labels, annotations map[string]string
	taints              []corev1.Taint
	unschedulable       bool
}

// wishFor returns what the EdgeDevice wants of its Node. The status tells the kind of machine; parts
// of it may be empty.
func wishFor(ed *aranya.EdgeDevice, info corev1.NodeSystemInfo) wish {
	w := wish{labels: map[string]string{}, annotations: map[string]string{}, unschedulable: ed.Spec.Node.Unschedulable}
	maps.Copy(w.labels, ed.Spec.Node.Labels)
	maps.Copy(w.annotations, ed.Spec.Node.Annotations)

	w.labels[aranya.LabelRole] = aranya.RoleEdgeDevice
	w.labels[aranya.LabelName] = ed.Name
	w.labels[aranya.LabelNamespace] = ed.Namespace
	w.labels[corev1.LabelHostname] = ed.Name
	if info.OperatingSystem != "" {
		w.labels[corev1.LabelOSStable], w.labels[labelBetaOS] = info.OperatingSystem, info.OperatingSystem
	}
	if info.Architecture != "" {
		w.labels[corev1.LabelArchStable], w.labels[labelBetaArch] = info.Architecture, info.Architecture
	}
	w.annotations[aranya.AnnotationUID] = string(ed.UID)
	w.annotations[aranya.AnnotationResourceMetricsPath] = metricsPath(ed.Name)

	for _, t := range ed.Spec.Node.Taints {
		w.taints = setTaint(w.taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	switch effect := ed.Spec.Node.NamespaceTaint; effect {
	case aranya.NamespaceTaintNone:
	case "":
		w.taints = setTaint(w.taints, corev1.Taint{Key: aranya.TaintNamespace, Value: ed.Namespace, Effect: corev1.TaintEffectNoSchedule})
	default:
		w.taints = setTaint(w.taints, corev1.Taint{Key: aranya.TaintNamespace, Value: ed.Namespace, Effect: corev1.TaintEffect(effect)})
	}
	return w
}

// newNode returns the Node of a device, complete, so that one call creates it: with its status, and
// with the labels and annotations that controller-manager would add one by one in a cluster of so many Nodes.
func newNode(ed *aranya.EdgeDevice, status corev1.NodeStatus, nodes int, now metav1.Time) *corev1.Node {
	w := wishFor(ed, status.NodeInfo)
	record := recordOf(ed, w)
	w.annotations[corev1.ObjectTTLAnnotationKey] = strconv.Itoa(ttlSeconds(nodes))
	w.annotations[aranya.AnnotationApplied] = record.encode()
	for i := range w.taints {
		if w.taints[i].Effect == corev1.TaintEffectNoExecute {
			w.taints[i].TimeAdded = &now
		}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: ed.Name, Labels: w.labels, Annotations: w.annotations},
		Spec:       corev1.NodeSpec{Taints: w.taints, Unschedulable: w.unschedulable},
		Status:     status,
	}
}

// ttlSeconds is what controller-manager sets in a cluster of this many Nodes. If it differs, because
// the cluster is just growing or shrinking, controller-manager corrects it.
func ttlSeconds(nodes int) int {
	switch {
	case nodes <= 100:
		return 0
	case nodes <= 500:
		return 15
	case nodes <= 1000:
		return 30
	case nodes <= 2000:
		return 60
	}
	return 300
}

// setTaint adds a taint, or changes the value of the one with the same key and effect.
func setTaint(taints []corev1.Taint, taint corev1.Taint) []corev1.Taint {
	for i := range taints {
		if taints[i].MatchTaint(&taint) {
			taints[i].Value = taint.Value
			return taints
		}
	}
	return append(taints, taint)
}

// withoutTaints leaves out the taints that are named as key:effect.
func withoutTaints(taints []corev1.Taint, names sets.Set[string]) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return names.Has(taintName(t)) })
}

func taintName(t corev1.Taint) string { return t.Key + ":" + string(t.Effect) }
