package pod

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/controller/patch"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// before are statuses of a pod in the API on which a device may report.
var before = map[string]corev1.PodStatus{
	"not scheduled by a scheduler": {Phase: corev1.PodPending},
	"running": {Phase: corev1.PodRunning, ObservedGeneration: 2, PodIP: "192.0.2.1", PodIPs: []corev1.PodIP{{IP: "192.0.2.1"}}, Conditions: []corev1.PodCondition{
		cond(corev1.PodScheduled, corev1.ConditionTrue, 1), cond(corev1.PodReady, corev1.ConditionTrue, 3), cond("example.com/gate", corev1.ConditionTrue, 2),
		cond(corev1.DisruptionTarget, corev1.ConditionFalse, 2),
	}},
	"ended": {Phase: corev1.PodFailed, Reason: "Evicted", Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionFalse, 3)}},
}

// mergeTwice fails if the same report would be written again, for ever.
func mergeTwice(t *testing.T, p *corev1.Pod, encoded []byte) {
	t.Helper()
	statuses := []corev1.PodStatus{p.Status}
	for i := range 2 {
		// Each time from the wire, as merge keeps parts of it.
		reported, ok := decodeStatus(encoded)
		if !ok {
			return
		}
		next := p.DeepCopy()
		next.Status = statuses[i]
		statuses = append(statuses, merge(next, reported, at(int64(100*(i+1)))))
	}
	for i, status := range statuses[1:] {
		data, err := patch.Strategic(p.UID, corev1.Pod{Status: statuses[i]}, corev1.Pod{Status: status})
		switch {
		case err != nil:
			t.Errorf("merge %d: %v", i, err)
		case i > 0 && data != nil:
			t.Errorf("merging the same again changes something: %s", data)
		}
	}
}

func FuzzMerge(f *testing.F) {
	ready, disrupted := cond(corev1.PodReady, corev1.ConditionTrue, 9), cond(corev1.DisruptionTarget, corev1.ConditionTrue, 9)
	for _, reported := range []corev1.PodStatus{
		{},
		{Phase: corev1.PodRunning, PodIP: "192.0.2.1", HostIP: "192.0.2.2", Conditions: []corev1.PodCondition{ready},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(5)}}}}},
		{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{ready, cond(corev1.PodReady, corev1.ConditionFalse, 10)}},
		{Phase: corev1.PodFailed, Reason: "Evicted", Conditions: []corev1.PodCondition{ready, disrupted, disrupted}},
		{Phase: corev1.PodSucceeded, StartTime: &metav1.Time{}, ContainerStatuses: []corev1.ContainerStatus{{Name: "b"}, {Name: "a"}, {Name: "a"}}},
	} {
		data, err := reported.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, status := range before {
			p := &corev1.Pod{Spec: corev1.PodSpec{
				NodeName: "n", InitContainers: []corev1.Container{{Name: "z"}, {Name: "a"}}, Containers: []corev1.Container{{Name: "main"}},
				ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}},
			}, Status: status}
			t.Run(name, func(t *testing.T) { mergeTwice(t, p, data) })
		}
	})
}

func FuzzMirror(f *testing.F) {
	const uid = "0123456789abcdef0123456789abcdef"
	device := gateway.Device{Namespace: "edge", Name: "d"}
	for _, p := range []corev1.Pod{
		{},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "web-d", UID: uid}, Spec: corev1.PodSpec{
			NodeName: "another", Containers: []corev1.Container{{Name: "main", Image: "x"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		}},
	} {
		data, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uid, data)
	}
	f.Fuzz(func(t *testing.T, uid string, data []byte) {
		p, err := mirrorOf(device, &edgeapi.StaticPod{Uid: uid, Pod: data})
		if err != nil {
			return
		}
		if p.Namespace != device.Namespace || !strings.HasSuffix(p.Name, "-d") || p.Spec.NodeName != device.Name || len(p.OwnerReferences)+len(p.Finalizers) > 0 ||
			staticpod.References(&p.Spec) != nil || !staticpod.IsMirror(p) {
			t.Errorf("mirror pod %+v", p)
		}
	})
}
