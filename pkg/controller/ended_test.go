package controller

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// ended is what a device reports of a pod that came to its own end.
func ended(exitCode int32) corev1.PodStatus {
	status := running()
	status.Phase = corev1.PodSucceeded
	if exitCode != 0 {
		status.Phase = corev1.PodFailed
	}
	status.ContainerStatuses[0].Ready = false
	status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exitCode}}
	return status
}

// exitCode is that of a pod's container by its status, -1 if it has not ended.
func exitCode(pod *corev1.Pod) int32 {
	if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Terminated == nil {
		return -1
	}
	return pod.Status.ContainerStatuses[0].State.Terminated.ExitCode
}

// TestPodIsEndedInTheCluster has somebody write into the status of a pod that it has ended, before or while
// its device has a link. A pod that has come to its own end is left alone.
func TestPodIsEndedInTheCluster(t *testing.T) {
	ed := edgeDevice("d1")
	withGrace := func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](7) }
	failed := func(p *corev1.Pod) {
		p.Status = running()
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Preempted", "by somebody"
	}
	c := newCluster(t, time.Hour, ed, ownNode(ed), edgePod("before", "d1", withGrace, failed), edgePod("while", "d1", withGrace), edgePod("itself", "d1"))
	s := c.connect(newSession(ed, &edgeapi.PodDigest{Uid: "uid-of-before"}, &edgeapi.PodDigest{Uid: "uid-of-itself"}, &edgeapi.PodDigest{Uid: "uid-of-while"}))
	c.report(s, c.pod("itself"), running())
	c.report(s, c.pod("itself"), ended(0))
	c.report(s, c.pod("before"), running())
	c.report(s, c.pod("while"), running())
	eventually.Holds(t, "statuses written", func() bool {
		return c.pod("while").Status.Phase == corev1.PodRunning && c.pod("itself").Status.Phase == corev1.PodSucceeded
	})
	p := c.pod("while")
	failed(p)
	if _, err := c.kube.CoreV1().Pods("edge").UpdateStatus(c.ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	eventually.Holds(t, "device asked to end both", func() bool { return len(s.deletes()) == 2 })
	for _, d := range s.deletes() {
		if !slices.Contains([]string{"before", "while"}, d.Name) || d.GracePeriodSeconds != 7 {
			t.Errorf("delete: %v", d)
		}
		c.report(s, c.pod(d.Name), running()) // it takes its time
		last := ended(0)
		c.removed(s, c.pod(d.Name), &last)
	}
	for _, name := range []string{"before", "while"} {
		eventually.Holds(t, "end written", func() bool { return exitCode(c.pod(name)) == 0 })
		if status := c.pod(name).Status; status.Phase != corev1.PodFailed || status.Reason != "Preempted" || status.Message != "by somebody" {
			t.Errorf("%s: %+v", name, status)
		}
	}
	if exitCode(c.pod("itself")) != 0 || len(s.deletes()) != 2 {
		t.Errorf("deletes: %v", s.deletes())
	}
	for _, r := range s.runs() {
		if r.Uid == "uid-of-before" {
			t.Error("a pod that has ended was sent")
		}
	}
}

// TestEndedPodThatTheDeviceHasForgotten has a device that has lost its records: what is left on it of a pod that
// has ended is to stay until the pod is deleted, though what the pod was made from is gone.
func TestEndedPodThatTheDeviceHasForgotten(t *testing.T) {
	ed := edgeDevice("d1")
	hasEnded := func(p *corev1.Pod) {
		p.Status = ended(0)
		p.Status.ContainerStatuses[0].ContainerID = "containerd://1"
	}
	rejected := func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NodeAffinity"} }
	c := newCluster(t, time.Hour, ed, ownNode(ed), edgePod("done", "d1", withEnv, withVolume, hasEnded), edgePod("rejected", "d1", rejected))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) > 0 })
	if desired := s.desired()[0].Pods; len(desired) != 1 || desired[0].Uid != "uid-of-done" {
		t.Errorf("desired: %v", desired)
	}
	sent := corev1.Pod{}
	if err := sent.Unmarshal(s.runs()[0].Pod); err != nil {
		t.Fatal(err)
	}
	if sent.Name != "done" || sent.Status.Phase != corev1.PodSucceeded || s.runs()[0].Digest == "" || len(s.runs()) > 1 {
		t.Errorf("sent: %v", s.runs())
	}
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "done", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked to drop it", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].Uid == "uid-of-done" })
}
