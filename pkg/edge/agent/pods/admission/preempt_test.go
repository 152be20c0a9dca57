package admission

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

func prioritized(p *v1.Pod, priority int32) *v1.Pod {
	p.Spec.Priority = ptr.To(priority)
	return p
}

// guaranteed makes a pod's limits what it requests.
func guaranteed(p *v1.Pod) *v1.Pod {
	p.Spec.Containers[0].Resources.Limits = p.Spec.Containers[0].Resources.Requests
	return p
}

func TestPreempt(t *testing.T) {
	const critical = 2000001000
	windows := prioritized(pod("p", "cpu", "3"), critical)
	windows.Spec.OS = &v1.PodOS{Name: v1.Windows}
	static := pod("p", "cpu", "3")
	static.UID = "0123456789abcdef0123456789abcdef"
	for name, tt := range map[string]struct {
		pod     *v1.Pod
		others  []*v1.Pod
		leaving []string
		want    []string
		not     bool // there is no room to be made
	}{
		"the one that comes closest": {
			pod:    prioritized(pod("p", "cpu", "3"), critical), // 1 is missing
			others: []*v1.Pod{pod("a", "cpu", "500m"), pod("b", "cpu", "1"), pod("c", "cpu", "500m")},
			want:   []string{"b"},
		},
		"the smaller of two": {
			pod:    prioritized(pod("p", "cpu", "3"), critical),
			others: []*v1.Pod{pod("a", "cpu", "1", "memory", "2Mi"), pod("b", "cpu", "1", "memory", "1Mi")},
			want:   []string{"b"},
		},
		"as few as possible": {
			pod:    prioritized(pod("p", "cpu", "4"), critical),
			others: []*v1.Pod{pod("a", "cpu", "500m"), pod("b", "cpu", "1"), pod("c", "cpu", "500m")},
			want:   []string{"b", "a", "c"},
		},
		"burstable before guaranteed": {
			pod:    prioritized(pod("p", "cpu", "3"), critical),
			others: []*v1.Pod{guaranteed(pod("a", "cpu", "1", "memory", "1Mi")), pod("b", "cpu", "1")},
			want:   []string{"b"},
		},
		"guaranteed for what the others cannot make up for": {
			pod:    prioritized(pod("p", "cpu", "4"), critical),
			others: []*v1.Pod{guaranteed(pod("a", "cpu", "1500m", "memory", "1Mi")), pod("b", "cpu", "500m")},
			want:   []string{"b", "a"},
		},
		"without requests for their number": {
			pod:    prioritized(pod("p"), critical),
			others: []*v1.Pod{pod("a", "cpu", "1"), pod("b"), pod("c", "cpu", "1"), pod("d", "cpu", "1")},
			want:   []string{"b"},
		},
		"a static pod": {
			pod:    static,
			others: []*v1.Pod{pod("a", "cpu", "2")},
			want:   []string{"a"},
		},
		"others that are critical": {
			pod:    prioritized(pod("p", "cpu", "3"), critical),
			others: []*v1.Pod{prioritized(pod("a", "cpu", "2"), critical)},
			not:    true,
		},
		"less critical ones": {
			pod:    prioritized(pod("p", "cpu", "3"), critical),
			others: []*v1.Pod{prioritized(pod("a", "cpu", "2"), critical-1000)},
			want:   []string{"a"},
		},
		"pods on their way out suffice": {
			pod:     prioritized(pod("p", "cpu", "3"), critical),
			others:  []*v1.Pod{pod("a", "cpu", "1"), pod("b", "cpu", "1")},
			leaving: []string{"b"},
		},
		"pods on their way out do not suffice": {
			pod:     prioritized(pod("p", "cpu", "4"), critical),
			others:  []*v1.Pod{pod("a", "cpu", "1"), pod("b", "cpu", "1")},
			leaving: []string{"b"},
			want:    []string{"a"},
		},
		"not critical": {
			pod:    prioritized(pod("p", "cpu", "3"), 1000),
			others: []*v1.Pod{pod("a", "cpu", "2")},
			not:    true,
		},
		"more than there is": {
			pod:    prioritized(pod("p", "cpu", "5"), critical),
			others: []*v1.Pod{pod("a", "cpu", "2")},
			not:    true,
		},
		"a port that is taken": {
			pod:    prioritized(withPort(pod("p", "cpu", "3"), "", 80, ""), critical),
			others: []*v1.Pod{withPort(pod("a", "cpu", "2"), "", 80, "")},
			not:    true,
		},
		"another system": {
			pod:    windows,
			others: []*v1.Pod{pod("a", "cpu", "2")},
			not:    true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger()
			l.SetAllocatable(list("cpu", "4", "memory", "1Gi", "pods", "4"))
			for _, other := range tt.others {
				if r := l.Claim(other); r != nil {
					t.Fatalf("%s: %v", other.Name, r)
				}
			}
			if l.Claim(tt.pod) == nil {
				t.Fatal("there is room already")
			}
			victims, ok := l.Preempt(tt.pod, sets.New(tt.leaving...))
			if ok == tt.not || !slices.Equal(victims, tt.want) {
				t.Fatalf("got %v, %t, want %v, %t", victims, ok, tt.want, !tt.not)
			}
			if tt.not {
				return
			}
			if late := pod("late", "cpu", "1"); l.Claim(tt.pod) == nil || l.Claim(late) == nil {
				t.Error("the room is given away before it is free")
			}
			leaving := sets.New(tt.leaving...).Insert(victims...)
			if again, ok := l.Preempt(tt.pod, leaving); !ok || len(again) > 0 {
				t.Errorf("asked again, got %v, %t", again, ok)
			}
			for uid := range leaving {
				l.Release(uid)
			}
			if r := l.Claim(tt.pod); r != nil {
				t.Errorf("refused though the others have gone: %v", r)
			}
		})
	}
}
