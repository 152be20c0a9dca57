package node

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

var now = metav1.NewTime(time.Unix(1_000_000, 0))

func device(spec aranya.NodeSpec) *aranya.EdgeDevice {
	return &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}, Spec: aranya.EdgeDeviceSpec{Node: spec}}
}

var linux = corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "arm64"}

func TestDrift(t *testing.T) {
	created := newNode(device(aranya.NodeSpec{
		Labels: map[string]string{"a": "1"}, Annotations: map[string]string{"b": "2"},
		Taints: []corev1.Taint{{Key: "t", Value: "v", Effect: corev1.TaintEffectNoSchedule}}, Unschedulable: true,
	}), corev1.NodeStatus{NodeInfo: linux}, 0, now)
	created.ResourceVersion, created.UID = "5", "node-uid"
	same := aranya.NodeSpec{Labels: map[string]string{"a": "1"}, Annotations: map[string]string{"b": "2"},
		Taints: []corev1.Taint{{Key: "t", Value: "v", Effect: corev1.TaintEffectNoSchedule}}, Unschedulable: true}

	for name, tt := range map[string]struct {
		node  func(*corev1.Node)
		spec  aranya.NodeSpec
		ready bool
		// want of the patch, without the record; nil: no patch
		want map[string]any
	}{
		"nothing to do": {spec: same},
		"what others set stays": {spec: same, node: func(n *corev1.Node) {
			n.Labels["x"], n.Annotations["x"] = "y", "y"
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoExecute})
		}},
		"not-ready stays until ready": {spec: same, node: func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
		}},
		"lifecycle taints go once ready": {spec: same, ready: true, node: func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
				corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoSchedule})
		}, want: map[string]any{
			"metadata": map[string]any{"uid": "node-uid", "resourceVersion": "5"},
			"spec": map[string]any{"taints": []any{
				map[string]any{"key": "t", "value": "v", "effect": "NoSchedule"},
				map[string]any{"key": "arhat.dev/namespace", "value": "ns", "effect": "NoSchedule"},
				map[string]any{"key": "x", "effect": "NoSchedule"},
			}},
		}},
		"spec emptied": {
			spec: aranya.NodeSpec{NamespaceTaint: aranya.NamespaceTaintPreferNoSchedule},
			node: func(n *corev1.Node) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoSchedule})
			},
			want: map[string]any{
				"metadata": map[string]any{"uid": "node-uid", "resourceVersion": "5", "labels": map[string]any{"a": nil}, "annotations": map[string]any{"b": nil}},
				"spec": map[string]any{"unschedulable": nil, "taints": []any{
					map[string]any{"key": "x", "effect": "NoSchedule"},
					map[string]any{"key": "arhat.dev/namespace", "value": "ns", "effect": "PreferNoSchedule"},
				}},
			},
		},
		"a user's cordon stays": {
			spec: aranya.NodeSpec{Labels: same.Labels, Annotations: same.Annotations, Taints: same.Taints},
			node: func(n *corev1.Node) {
				r := applied(n)
				r.Unschedulable = false
				n.Annotations[aranya.AnnotationApplied] = r.encode()
			},
		},
		"spoilt": {
			spec: same,
			node: func(n *corev1.Node) {
				n.Labels["a"], n.Labels[aranya.LabelRole], n.Spec.Unschedulable = "x", "x", false
			},
			want: map[string]any{
				"metadata": map[string]any{"uid": "node-uid", "labels": map[string]any{"a": "1", aranya.LabelRole: aranya.RoleEdgeDevice}},
				"spec":     map[string]any{"unschedulable": true},
			},
		},
		"removal called off": {
			spec: same,
			node: func(n *corev1.Node) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: aranya.TaintRemoving, Effect: corev1.TaintEffectNoSchedule})
			},
			want: map[string]any{
				"metadata": map[string]any{"uid": "node-uid", "resourceVersion": "5"},
				"spec": map[string]any{"taints": []any{
					map[string]any{"key": "t", "value": "v", "effect": "NoSchedule"},
					map[string]any{"key": "arhat.dev/namespace", "value": "ns", "effect": "NoSchedule"},
				}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := created.DeepCopy()
			if tt.node != nil {
				tt.node(n)
			}
			data, _, err := drift(n, device(tt.spec), linux, tt.ready, now)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if data != nil {
				if err := json.Unmarshal(data, &got); err != nil {
					t.Fatal(err)
				}
				metadata := got["metadata"].(map[string]any)
				if annotations, ok := metadata["annotations"].(map[string]any); ok {
					delete(annotations, aranya.AnnotationApplied)
				}
				if spec := got["spec"].(map[string]any); len(spec) == 0 {
					delete(got, "spec")
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What others have put on a Node stays as it is, also once the EdgeDevice has wanted the same, or something else in
// its place, and wants it no more.
func TestDriftLeavesWhatOthersSet(t *testing.T) {
	const effect = corev1.TaintEffectNoExecute
	wanting := func(value string) aranya.NodeSpec {
		return aranya.NodeSpec{
			Labels: map[string]string{"x": value, "own": "1"}, Annotations: map[string]string{"x": value, "own": "1"},
			Taints: []corev1.Taint{{Key: "x", Value: value, Effect: effect}, {Key: "own", Effect: effect}}, Unschedulable: true,
		}
	}
	for name, tt := range map[string]struct {
		spec     aranya.NodeSpec
		withheld []string
	}{
		"the same": {spec: wanting("theirs")},
		"another":  {spec: wanting("ours"), withheld: []string{"label x", "annotation x", "taint x:NoExecute"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.expect("create")
			r.census.seen(r.ed.Name)
			others := func(n *corev1.Node) {
				n.Labels["x"], n.Annotations["x"], n.Spec.Unschedulable = "theirs", "theirs", true
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Value: "theirs", Effect: effect})
			}
			r.change(others)
			want := r.node()
			for generation, spec := range []aranya.NodeSpec{tt.spec, tt.spec, {}} {
				_, withheld, err := drift(r.node(), device(spec), corev1.NodeSystemInfo{}, true, now)
				if err != nil {
					t.Fatal(err)
				}
				if first := generation == 0; first && !slices.Equal(withheld, tt.withheld) || !first && withheld != nil {
					t.Errorf("generation %d: %q are withheld", generation, withheld)
				}
				r.ed.Spec.Node, r.ed.Generation = spec, int64(generation+1)
				if _, _, err := r.sync(); err != nil {
					t.Fatal(err)
				}
				r.change(nil)
				n := r.node()
				wanted := len(spec.Labels) > 0
				tainted := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "own" })
				if n.Labels["own"] != spec.Labels["own"] || n.Annotations["own"] != spec.Annotations["own"] || tainted != wanted {
					t.Errorf("generation %d: what nobody else has set should be there: %t: %+v %+v", generation, wanted, n.ObjectMeta, n.Spec)
				}
				if !wanted {
					want.ResourceVersion, want.ManagedFields = n.ResourceVersion, n.ManagedFields
					want.Annotations[aranya.AnnotationApplied] = n.Annotations[aranya.AnnotationApplied]
					if diff := cmp.Diff(want, n); diff != "" {
						t.Error(diff)
					}
				} else if n.Labels["x"] != "theirs" || n.Annotations["x"] != "theirs" || !slices.Contains(n.Spec.Taints, corev1.Taint{Key: "x", Value: "theirs", Effect: effect}) {
					t.Errorf("generation %d: %+v %+v", generation, n.ObjectMeta, n.Spec)
				}
			}
		})
	}
}

func TestSpecCannotOverrideWhatIdentifiesTheNode(t *testing.T) {
	w := wishFor(device(aranya.NodeSpec{
		Labels:      map[string]string{aranya.LabelNamespace: "kube-system", corev1.LabelHostname: "x"},
		Annotations: map[string]string{aranya.AnnotationUID: "x", aranya.AnnotationResourceMetricsPath: "x"},
	}), linux)
	if w.labels[aranya.LabelNamespace] != "ns" || w.labels[corev1.LabelHostname] != "d" || w.annotations[aranya.AnnotationUID] != "u" || w.annotations[aranya.AnnotationResourceMetricsPath] != metricsPath("d") {
		t.Errorf("overridden: %v %v", w.labels, w.annotations)
	}
}

func TestTTLFollowsControllerManager(t *testing.T) {
	for nodes, want := range map[int]int{1: 0, 100: 0, 101: 15, 500: 15, 501: 30, 1000: 30, 1001: 60, 2001: 300} {
		if got := ttlSeconds(nodes); got != want {
			t.Errorf("%d Nodes: %d s, want %d", nodes, got, want)
		}
	}
}
