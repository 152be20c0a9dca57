package node

import (
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// record is what of an EdgeDevice's spec was put on its Node. It is kept on the Node.
type record struct {
	Labels        []string `json:"labels,omitempty"`
	Annotations   []string `json:"annotations,omitempty"`
	Taints        []string `json:"taints,omitempty"`
	Unschedulable bool     `json:"unschedulable,omitempty"`
	// Withheld is what the spec wants otherwise than somebody else has put it on the Node. It has to be told once.
	Withheld []string `json:"withheld,omitempty"`
}

// recordOf returns the record of a Node that nobody else has put anything on.
func recordOf(ed *aranya.EdgeDevice, w wish) record {
	r := record{
		Labels:        slices.Sorted(maps.Keys(ed.Spec.Node.Labels)),
		Annotations:   slices.Sorted(maps.Keys(ed.Spec.Node.Annotations)),
		Unschedulable: w.unschedulable,
	}
	for _, t := range w.taints {
		r.Taints = append(r.Taints, taintName(t))
	}
	slices.Sort(r.Taints)
	return r
}

// withhold takes out of what the EdgeDevice wants, and returns the record without, what others have put on the Node:
// who may write an EdgeDevice could else change that, or take it off by no longer wanting it.
func withhold(n *corev1.Node, before, after record, w *wish) record {
	keys := func(kind string, wanted, ours []string, have, want map[string]string) []string {
		return slices.DeleteFunc(wanted, func(key string) bool {
			value, there := have[key]
			if !there || slices.Contains(ours, key) {
				return false
			}
			if value != want[key] {
				after.Withheld = append(after.Withheld, kind+" "+key)
			}
			delete(want, key)
			return true
		})
	}
	after.Labels = keys("label", after.Labels, before.Labels, n.Labels, w.labels)
	after.Annotations = keys("annotation", after.Annotations, before.Annotations, n.Annotations, w.annotations)
	w.taints = slices.DeleteFunc(w.taints, func(t corev1.Taint) bool {
		i := slices.IndexFunc(n.Spec.Taints, func(have corev1.Taint) bool { return have.MatchTaint(&t) })
		if i < 0 || slices.Contains(before.Taints, taintName(t)) {
			return false
		}
		if n.Spec.Taints[i].Value != t.Value {
			after.Withheld = append(after.Withheld, "taint "+taintName(t))
		}
		after.Taints = slices.DeleteFunc(after.Taints, func(name string) bool { return name == taintName(t) })
		return true
	})
	if n.Spec.Unschedulable && !before.Unschedulable {
		after.Unschedulable, w.unschedulable = false, false
	}
	return after
}

func (r record) encode() string {
	data, err := json.Marshal(r)
	if err != nil {
		return "{}" // strings and a bool cannot fail
	}
	return string(data)
}

// applied reads the record of a Node. One that was spoilt by somebody counts as empty: then what was
// put on the Node before stays there as it is.
func applied(n *corev1.Node) record {
	var r record
	if json.Unmarshal([]byte(n.Annotations[aranya.AnnotationApplied]), &r) != nil {
		return record{}
	}
	return r
}

// lifecycleTaints are put on Nodes that are not ready, by admission and controller-manager.
// Controller-manager would take them off as well, but at its own pace.
var lifecycleTaints = sets.New(
	corev1.TaintNodeNotReady+":"+string(corev1.TaintEffectNoSchedule),
	corev1.TaintNodeNotReady+":"+string(corev1.TaintEffectNoExecute),
	corev1.TaintNodeUnreachable+":"+string(corev1.TaintEffectNoSchedule),
	corev1.TaintNodeUnreachable+":"+string(corev1.TaintEffectNoExecute),
)

// drift returns a JSON merge patch that gives a Node what its EdgeDevice wants, and takes off what it
// wanted formerly; nil if there is nothing to do. Labels, annotations, taints and a cordon of others
// stay; withheld is what of these the EdgeDevice wants otherwise, if the patch is the first to say so. If ready, the
// taints of Nodes that are not ready go.
func drift(n *corev1.Node, ed *aranya.EdgeDevice, info corev1.NodeSystemInfo, ready bool, now metav1.Time) (patch []byte, withheld []string, err error) {
	w := wishFor(ed, info)
	before := applied(n)
	after := withhold(n, before, recordOf(ed, w), &w)
	w.annotations[aranya.AnnotationApplied] = after.encode()

	metadata, spec := map[string]any{}, map[string]any{}
	if changes := mapChanges(n.Labels, w.labels, before.Labels); len(changes) > 0 {
		metadata["labels"] = changes
	}
	changes := mapChanges(n.Annotations, w.annotations, before.Annotations)
	if Left(n) {
		changes[aranya.AnnotationMissing] = nil // the EdgeDevice is back
	}
	if len(changes) > 0 {
		metadata["annotations"] = changes
	}
	obsolete := sets.New(before.Taints...).Difference(sets.New(after.Taints...))
	if ready {
		obsolete = obsolete.Union(lifecycleTaints)
	}
	taints := withoutTaints(n.Spec.Taints, obsolete.Insert(removingTaints...))
	for _, t := range w.taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			t.TimeAdded = &now
		}
		taints = setTaint(taints, t)
	}
	if !apiequality.Semantic.DeepEqual(taints, n.Spec.Taints) {
		spec["taints"] = taints
		// The list is replaced as a whole: nobody else's change may be lost.
		metadata["resourceVersion"] = n.ResourceVersion
	}
	if w.unschedulable && !n.Spec.Unschedulable {
		spec["unschedulable"] = true
	} else if !w.unschedulable && before.Unschedulable && n.Spec.Unschedulable {
		spec["unschedulable"] = nil
	}
	if len(metadata) == 0 && len(spec) == 0 {
		return nil, nil, nil
	}
	if n.Annotations[aranya.AnnotationApplied] != after.encode() {
		metadata["resourceVersion"] = n.ResourceVersion // or it may claim what somebody has just put there
	}
	if !slices.Equal(before.Withheld, after.Withheld) {
		withheld = after.Withheld
	}
	metadata["uid"] = n.UID
	patch, err = json.Marshal(map[string]any{"metadata": metadata, "spec": spec})
	return patch, withheld, err
}

// removingTaints are what a removal that was called off may have left.
var removingTaints = []string{aranya.TaintRemoving + ":" + string(corev1.TaintEffectNoSchedule)}

// mapChanges returns what turns have into want, without the keys that were put there before and are
// not wanted any more. Nil values take a key off.
func mapChanges(have, want map[string]string, before []string) map[string]any {
	changes := map[string]any{}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			changes[k] = v
		}
	}
	for _, k := range before {
		_, wanted := want[k]
		if _, there := have[k]; there && !wanted {
			changes[k] = nil
		}
	}
	return changes
}
