package device

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// The condition NodeReady follows a change of all that it depends on, and nothing else.
func TestChangesOfNodes(t *testing.T) {
	c := newController(t, Config{}, &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}})
	for name, tt := range map[string]struct {
		change func(*corev1.Node)
		looks  int
	}{
		"nothing":                  {func(*corev1.Node) {}, 0},
		"a label":                  {func(n *corev1.Node) { n.Labels = map[string]string{"l": "v"} }, 0},
		"an annotation":            {func(n *corev1.Node) { n.Annotations["a"] = "b" }, 0},
		"another one":              {func(n *corev1.Node) { n.UID = "another" }, 1},
		"another EdgeDevice":       {func(n *corev1.Node) { n.Annotations[aranya.AnnotationUID] = "u" }, 1},
		"no EdgeDevice's":          {func(n *corev1.Node) { n.Annotations = nil }, 1},
		"left by a former one":     {func(n *corev1.Node) { n.Annotations[aranya.AnnotationMissing] = "2026-11-27T00:00:00Z" }, 1},
		"another condition":        {func(n *corev1.Node) { n.Status.Conditions[1].Status = corev1.ConditionTrue }, 0},
		"the condition that it is": {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			told := &toldQueue{TypedRateLimitingInterface: c.queue}
			c.queue = told
			before := &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "d", UID: "n", Annotations: map[string]string{aranya.AnnotationUID: "former"}},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
					{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
				}},
			}
			after := before.DeepCopy()
			tt.change(after)
			c.nodeHandler().OnUpdate(before, after)
			if len(told.keys) != tt.looks {
				t.Errorf("looked at %v, want %d", told.keys, tt.looks)
			}
		})
	}
}
