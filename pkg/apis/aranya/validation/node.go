package validation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

var (
	// reservedLabels are what aranya itself puts on Nodes, and the old names that controller-manager
	// keeps equal to the new ones.
	reservedLabels = sets.New(
		v1alpha1.LabelRole, v1alpha1.LabelName, v1alpha1.LabelNamespace,
		corev1.LabelArchStable, corev1.LabelOSStable, corev1.LabelHostname,
		"beta.kubernetes.io/arch", "beta.kubernetes.io/os",
	)
	// reservedAnnotations likewise.
	reservedAnnotations = sets.New(v1alpha1.AnnotationUID, v1alpha1.AnnotationApplied, v1alpha1.AnnotationMissing, v1alpha1.AnnotationResourceMetricsPath)
	// reservedTaints are put on and taken off by the control plane as the state of the Node changes.
	reservedTaints = sets.New(
		corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable,
		corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable,
	)
	taintEffects    = []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	namespaceTaints = []aranya.NamespaceTaint{
		aranya.NamespaceTaintNoSchedule, aranya.NamespaceTaintPreferNoSchedule,
		aranya.NamespaceTaintNoExecute, aranya.NamespaceTaintNone,
	}
)

// What a Node may get. Every watcher of Nodes holds it; and a Node's annotations, of which there are others, must not
// exceed 256 KiB.
const (
	maxNodeLabels          = 128
	maxNodeAnnotations     = 128
	maxNodeAnnotationBytes = 64 << 10
	maxNodeTaints          = 64
)

func validateNode(spec *aranya.NodeSpec, path *field.Path) field.ErrorList {
	errs := validateNodeLabels(spec.Labels, path.Child("labels"))
	errs = append(errs, validateNodeAnnotations(spec.Annotations, path.Child("annotations"))...)
	errs = append(errs, validateTaints(spec.Taints, path.Child("taints"))...)
	if !slices.Contains(namespaceTaints, spec.NamespaceTaint) {
		errs = append(errs, field.NotSupported(path.Child("namespaceTaint"), spec.NamespaceTaint, namespaceTaints))
	}
	return errs
}

// validateNodeLabels leaves to administrators what NodeRestriction leaves to them: whoever may create an
// EdgeDevice must not be able to have its Node pass for one that they set apart.
func validateNodeLabels(labels map[string]string, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(labels, path)
	if len(labels) > maxNodeLabels {
		errs = append(errs, field.TooMany(path, len(labels), maxNodeLabels))
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		switch {
		case reservedLabels.Has(key):
			errs = append(errs, field.Forbidden(path.Key(key), "set by aranya: remove it"))
		case inDomain(key, corev1.LabelNamespaceNodeRestriction):
			errs = append(errs, field.Forbidden(path.Key(key), "labels of "+corev1.LabelNamespaceNodeRestriction+
				" are for administrators to set on the Node itself: remove it"))
		case (inDomain(key, "kubernetes.io") || inDomain(key, "k8s.io")) && !kubeletapis.IsKubeletLabel(key):
			errs = append(errs, field.Forbidden(path.Key(key), "of the labels of kubernetes.io and k8s.io, only those are allowed "+
				"that a kubelet may set on its own Node: use a label of a domain of yours, or have an administrator set it on the Node itself"))
		}
	}
	return errs
}

// inDomain tells whether the prefix of a label's key is a domain or below it.
func inDomain(key, domain string) bool {
	prefix, _, found := strings.Cut(key, "/")
	return found && (prefix == domain || strings.HasSuffix(prefix, "."+domain))
}

func validateNodeAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(annotations, path)
	if len(annotations) > maxNodeAnnotations {
		errs = append(errs, field.TooMany(path, len(annotations), maxNodeAnnotations))
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		size += len(key) + len(annotations[key])
		switch {
		case reservedAnnotations.Has(key):
			errs = append(errs, field.Forbidden(path.Key(key), "set by aranya: remove it"))
		case key == corev1.ObjectTTLAnnotationKey:
			errs = append(errs, field.Forbidden(path.Key(key), "set by the control plane by the number of Nodes: remove it"))
		}
	}
	if size > maxNodeAnnotationBytes {
		errs = append(errs, field.TooLong(path, "", maxNodeAnnotationBytes))
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(taints) > maxNodeTaints {
		errs = append(errs, field.TooMany(path, len(taints), maxNodeTaints))
	}
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[identity]()
	for i, taint := range taints {
		path := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(taint.Key, path.Child("key"))...)
		errs = append(errs, invalid(path.Child("value"), taint.Value, validation.IsValidLabelValue(taint.Value))...)
		if !slices.Contains(taintEffects, taint.Effect) {
			errs = append(errs, field.NotSupported(path.Child("effect"), taint.Effect, taintEffects))
		}
		switch {
		case taint.Key == v1alpha1.TaintNamespace:
			errs = append(errs, field.Forbidden(path.Child("key"), "set by aranya: use spec.node.namespaceTaint"))
		case taint.Key == v1alpha1.TaintRemoving:
			errs = append(errs, field.Forbidden(path.Child("key"), "set by aranya when the EdgeDevice is deleted: remove it"))
		case taint.Key == corev1.TaintNodeUnschedulable:
			errs = append(errs, field.Forbidden(path.Child("key"), "set by the control plane: use spec.node.unschedulable"))
		case reservedTaints.Has(taint.Key):
			errs = append(errs, field.Forbidden(path.Child("key"), "set and removed by the control plane as the Node's state changes: remove it"))
		}
		id := identity{taint.Key, taint.Effect}
		if seen.Has(id) {
			errs = append(errs, field.Duplicate(path, fmt.Sprintf("%s:%s", taint.Key, taint.Effect)))
		}
		seen.Insert(id)
	}
	return errs
}
