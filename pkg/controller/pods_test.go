package controller

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name}, Data: map[string]string{"key": value}}
}

func withVolume(p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, DefaultMode: ptr.To[int32](0o644)},
	}}}
}

func withEnv(p *corev1.Pod) {
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
		ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "key"},
	}}}
}

func running() corev1.PodStatus {
	now := metav1.Unix(1_000_000, 0)
	return corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.88.0.2", PodIPs: []corev1.PodIP{{IP: "10.88.0.2"}}, StartTime: &now,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "runtime://2", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}},
	}
}

func TestPodIsSentAndReported(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, configMap("cm", "1"), edgePod("p", "d1", withVolume))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	run := s.runs()[0]
	if run.Uid != "uid-of-p" || run.Digest == "" || run.VolumesDigest == "" || string(run.Volumes[0].Files[0].Data) != "1" {
		t.Errorf("sent: %v", run)
	}
	if s.sent[0].GetDesiredPods() == nil {
		t.Error("the list of desired pods does not come first")
	}
	c.report(s, c.pod("p"), running())
	eventually.Holds(t, "status written", func() bool {
		p, err := c.controllers.Pods().Pods("edge").Get("p")
		return err == nil && p.Status.Phase == corev1.PodRunning
	})
	status := c.pod("p").Status
	if len(status.Conditions) != 2 || status.Conditions[0].Type != corev1.PodScheduled || status.QOSClass != corev1.PodQOSBestEffort || status.ObservedGeneration != 1 {
		t.Errorf("status: %+v", status)
	}

	// The same again is no write.
	before := podPatches(c)
	c.report(s, c.pod("p"), running())
	update := configMap("cm", "2")
	if _, err := c.kube.CoreV1().ConfigMaps("edge").Update(c.ctx, update, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "volume updated", func() bool { return len(s.updates()) == 1 })
	if u := s.updates()[0]; u.Uid != "uid-of-p" || string(u.Volumes[0].Files[0].Data) != "2" || u.VolumesDigest == run.VolumesDigest {
		t.Errorf("update: %v", u)
	}
	if len(s.runs()) != 1 {
		t.Error("the pod was sent again though only a volume changed")
	}
	if after := podPatches(c); after != before {
		t.Errorf("%d status writes for a status that did not change", after-before)
	}
}

func podPatches(c *cluster) int {
	n := 0
	for _, a := range c.kube.Actions() {
		if a.GetVerb() == "patch" && a.GetResource().Resource == "pods" {
			n++
		}
	}
	return n
}

func TestReconnectSendsOnlyWhatDiffers(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, configMap("cm", "1"), edgePod("p", "d1", withVolume), edgePod("q", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "both sent", func() bool { return len(s.runs()) == 2 })
	var held []*edgeapi.PodDigest
	for _, r := range s.runs() {
		held = append(held, &edgeapi.PodDigest{Uid: r.Uid, Digest: r.Digest, VolumesDigest: r.VolumesDigest})
	}
	c.cut(s, "gone")

	held = append(held, &edgeapi.PodDigest{Uid: "stale", Digest: "x"})
	i := slices.IndexFunc(held, func(p *edgeapi.PodDigest) bool { return p.Uid == "uid-of-q" })
	held[i].Digest = "outdated"
	s = c.connect(newSession(ed, held...))
	eventually.Holds(t, "differing pod sent", func() bool { return len(s.runs()) == 1 })
	if s.runs()[0].Uid != "uid-of-q" {
		t.Errorf("sent %s", s.runs()[0].Uid)
	}
	desired := s.desired()
	if len(desired) != 1 || len(desired[0].Pods) != 2 {
		t.Fatalf("desired: %v", desired)
	}
	for _, p := range desired[0].Pods {
		if p.Uid == "stale" {
			t.Error("a pod that is gone is desired")
		}
	}
}

func TestDeletionIsConfirmedByTheDevice(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	c.report(s, c.pod("p"), running())
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](7)}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked", func() bool { return len(s.deletes()) == 1 })
	if d := s.deletes()[0]; d.Uid != "uid-of-p" || d.Name != "p" || d.Namespace != "edge" || d.GracePeriodSeconds != 7 {
		t.Errorf("delete: %v", d)
	}
	if c.pod("p") == nil {
		t.Fatal("the pod is gone before the device has confirmed")
	}
	last := running()
	last.Phase = corev1.PodSucceeded
	c.removed(s, c.pod("p"), &last)
	eventually.Holds(t, "pod gone", func() bool { return c.pod("p") == nil })
	// What the device said last is written before the pod goes for good.
	actions := c.kube.Actions()
	written := slices.IndexFunc(actions, func(a clienttesting.Action) bool {
		patch, ok := a.(clienttesting.PatchAction)
		return ok && a.Matches("patch", "pods/status") && strings.Contains(string(patch.GetPatch()), `"phase":"Succeeded"`)
	})
	deletes := 0
	for i, a := range actions {
		if a.Matches("delete", "pods") {
			if deletes++; deletes == 2 && (written < 0 || i < written) {
				t.Error("the last status was not written before the pod went")
			}
		}
	}
	if deletes != 2 { // by the user, and by the controller
		t.Errorf("%d deletions", deletes)
	}
}

func TestDeletionOfPodTheDeviceNeverGot(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1", withVolume)) // its ConfigMap does not exist
	s := c.connect(newSession(ed))
	eventually.Holds(t, "waiting", func() bool { return slices.Contains(c.events("Pod", "p"), "FailedMount") })
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked", func() bool { return len(s.deletes()) == 1 })
	c.removed(s, c.pod("p"), nil)
	eventually.Holds(t, "pod gone", func() bool { return c.pod("p") == nil })
	if len(s.runs()) > 0 {
		t.Error("the pod was sent without its volume")
	}
	// A Job may wait for its pods to fail before it replaces them.
	var phase corev1.PodPhase
	for _, a := range c.kube.Actions() {
		var written corev1.Pod
		if p, ok := a.(clienttesting.PatchAction); ok && a.Matches("patch", "pods/status") && json.Unmarshal(p.GetPatch(), &written) == nil && written.Status.Phase != "" {
			phase = written.Status.Phase
		}
	}
	if phase != corev1.PodFailed {
		t.Errorf("the last phase written is %q, want Failed", phase)
	}
}

func TestForceDeletedPodIsDropped(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].GracePeriodSeconds == 0 })
}

// A device stops a pod that was deleted by force when it is gone in the cluster already: what it tells of that is recorded,
// but not what another device says.
func TestEventsOfForceDeletedPod(t *testing.T) {
	one, two := edgeDevice("d1"), edgeDevice("d2")
	c := newCluster(t, time.Hour, one, two, edgePod("p", "d1"))
	s1, s2 := c.connect(newSession(one)), c.connect(newSession(two))
	eventually.Holds(t, "pod sent", func() bool { return len(s1.runs()) == 1 && c.node("d2") != nil })
	uid := c.pod("p").UID
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked", func() bool { return len(s1.deletes()) == 1 })
	tell := func(s *session, reason string) {
		c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
			Event: &edgeapi.Event{PodUid: string(uid), FieldPath: "spec.containers{main}", Type: "Normal", Reason: reason, Message: "Stopping container main"},
		}})
	}
	tell(s2, "Forged")
	tell(s1, "Killing")
	eventually.Holds(t, "event", func() bool { return slices.Contains(c.events("Pod", "p"), "Killing") })
	if slices.Contains(c.events("Pod", "p"), "Forged") {
		t.Error("a device reported on another's pod")
	}
	list, err := c.kube.CoreV1().Events("edge").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == "Killing" && e.InvolvedObject.UID != uid {
			t.Errorf("the event is about %+v", e.InvolvedObject)
		}
	}
}

func TestDeviceReportsOnlyOnItsOwnPods(t *testing.T) {
	one, two := edgeDevice("d1"), edgeDevice("d2")
	c := newCluster(t, time.Hour, one, two, edgePod("p1", "d1"), edgePod("p2", "d2"))
	s1, s2 := c.connect(newSession(one)), newSession(two, &edgeapi.PodDigest{Uid: "uid-of-p1"})
	c.connect(s2)
	eventually.Holds(t, "both sent", func() bool { return len(s1.runs()) == 1 && len(s2.runs()) == 1 })
	if s1.runs()[0].Uid != "uid-of-p1" || s2.runs()[0].Uid != "uid-of-p2" {
		t.Errorf("sent %s to d1 and %s to d2", s1.runs()[0].Uid, s2.runs()[0].Uid)
	}
	forged := running()
	forged.Message = "forged"
	c.report(s2, c.pod("p1"), forged)
	c.removed(s2, c.pod("p1"), &forged)
	c.controllers.Handler().DeviceMessage(s2, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
		Event: &edgeapi.Event{PodUid: "uid-of-p1", Type: "Warning", Reason: "Forged", Message: "forged"},
	}})
	// What is honest, and comes later, is the sign that the forgeries were dealt with.
	c.report(s2, c.pod("p2"), running())
	c.report(s1, c.pod("p1"), running())
	c.controllers.Handler().DeviceMessage(s1, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
		Event: &edgeapi.Event{PodUid: "uid-of-p1", FieldPath: "spec.containers{main}", Type: "Normal", Reason: "Started", Message: "Started container main"},
	}})
	eventually.Holds(t, "honest reports", func() bool {
		return c.pod("p1").Status.Phase == corev1.PodRunning && c.pod("p2").Status.Phase == corev1.PodRunning && slices.Contains(c.events("Pod", "p1"), "Started")
	})
	if c.pod("p1").Status.Message != "" || slices.Contains(c.events("Pod", "p1"), "Forged") {
		t.Error("a device reported on another's pod")
	}
}

func TestEventsOfTheDeviceItself(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node known", func() bool { _, _, ok := c.controllers.DeviceForNode("d1"); return ok })
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
		Event: &edgeapi.Event{Type: "Warning", Reason: "DiskPressure", Message: "little is left"},
	}})
	eventually.Holds(t, "on EdgeDevice and Node", func() bool {
		return slices.Contains(c.events("EdgeDevice", "d1"), "DiskPressure") && slices.Contains(c.events("Node", "d1"), "DiskPressure")
	})
}

func TestBusyDeviceIsTriedAgain(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := newSession(ed)
	s.busy = 3
	c.connect(s)
	eventually.Holds(t, "pod sent in the end", func() bool { return len(s.runs()) == 1 && s.busy == 0 })
}

func TestPodsWaitForTheDevice(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, ownNode(ed), edgePod("p", "d1"))
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "deletion seen", func() bool {
		p, err := c.controllers.Pods().Pods("edge").Get("p")
		return err == nil && p.DeletionTimestamp != nil
	})
	if c.pod("p") == nil {
		t.Fatal("the pod of a device that is away is gone")
	}
	s := c.connect(newSession(ed, &edgeapi.PodDigest{Uid: "uid-of-p"}))
	eventually.Holds(t, "device asked", func() bool { return len(s.deletes()) == 1 })
	if len(s.desired()[0].Pods) != 1 {
		t.Error("a pod that ends with grace is not desired meanwhile")
	}
}

func TestPodsOfADeviceThatStaysAwayAreNotReady(t *testing.T) {
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Hour, ed, ownNode(ed), edgePod("p", "d1"))
	ready := func() corev1.ConditionStatus {
		for _, condition := range c.pod("p").Status.Conditions {
			if condition.Type == corev1.PodReady {
				return condition.Status
			}
		}
		return ""
	}
	s := c.connect(newSession(ed))
	c.report(s, c.pod("p"), running())
	eventually.Holds(t, "ready", func() bool { return ready() == corev1.ConditionTrue })
	c.cut(s, "gone")
	eventually.Holds(t, "Node unknown", func() bool { clock.Step(100 * time.Millisecond); return c.ready("d1") == corev1.ConditionUnknown })
	if ready() != corev1.ConditionTrue {
		t.Error("a short loss makes the pod not ready")
	}
	eventually.Holds(t, "not ready", func() bool { clock.Step(time.Second); return ready() == corev1.ConditionFalse })
	s = c.connect(newSession(ed))
	c.report(s, c.pod("p"), running())
	eventually.Holds(t, "ready again", func() bool { return ready() == corev1.ConditionTrue })
}

func TestTooLargePod(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := newSession(ed)
	s.tooLarge = true
	c.connect(s)
	eventually.Holds(t, "told", func() bool { return slices.Contains(c.events("Pod", "p"), "PodTooLarge") })
}

// TestUnsuitableNode has pods bound to a Node whose labels or taints do not suit them, as by somebody
// who sets spec.nodeName.
func TestUnsuitableNode(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Spec.Node.Taints = []corev1.Taint{{Key: "example.com/private", Effect: corev1.TaintEffectNoExecute}}
	tolerant := func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	selects := func(value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: value} }
	}
	c := newCluster(t, time.Hour, ed,
		edgePod("elsewhere", "d1", tolerant, selects("d2")), edgePod("intolerant", "d1"), edgePod("fits", "d1", tolerant, selects("d1")))
	s := c.connect(newSession(ed))
	for name, want := range map[string][2]string{
		"elsewhere":  {"NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"intolerant": {"TaintToleration", "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"},
	} {
		eventually.Holds(t, name+" refused", func() bool { return c.pod(name).Status.Phase == corev1.PodFailed })
		if status := c.pod(name).Status; status.Reason != want[0] || status.Message != want[1] || status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("%s: %+v", name, status)
		}
		eventually.Holds(t, "the event of "+name, func() bool {
			return slices.ContainsFunc(c.events("Pod", name), func(e string) bool { return strings.Contains(e, want[0]) })
		})
	}
	eventually.Holds(t, "the other sent", func() bool { return len(s.runs()) == 1 })
	if uid := s.runs()[0].Uid; uid != "uid-of-fits" {
		t.Errorf("sent %s", uid)
	}
	// What the device holds goes on though the labels change.
	c.report(s, c.pod("fits"), running())
	p := c.pod("fits")
	p.Spec.NodeSelector, p.Labels = map[string]string{"zone": "one"}, map[string]string{"changed": "yes"}
	if _, err := c.kube.CoreV1().Pods("edge").Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the change sent", func() bool { return len(s.runs()) == 2 })
	if phase := c.pod("fits").Status.Phase; phase == corev1.PodFailed {
		t.Error("a pod that runs was refused")
	}
}
