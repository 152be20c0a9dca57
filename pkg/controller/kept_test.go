package controller

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// A device that holds the volumes of a pod is not sent them again with each change of a label: they may be large.
func TestChangedPodLeavesOutItsVolumes(t *testing.T) {
	for name, features := range map[string][]string{"with the feature": {edgeapi.FeatureKeptVolumes}, "an older agent": nil} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			c := newCluster(t, time.Hour, ed, configMap("cm", "1"), secret("1"), edgePod("p", "d1", withVolume, withSecret))
			session := func(held ...*edgeapi.PodDigest) *session { return c.connectWith(features, ed, held...) }
			label := func(value string) {
				t.Helper()
				p := c.pod("p")
				p.Labels = map[string]string{"changed": value}
				if _, err := c.kube.CoreV1().Pods("edge").Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			check := func(run *edgeapi.RunPod, kept ...string) {
				t.Helper()
				if features == nil {
					kept = nil
				}
				got := slices.Clone(run.GetKeptVolumes())
				slices.Sort(got)
				if !slices.Equal(got, kept) || len(run.GetVolumes()) != 2-len(kept) {
					t.Errorf("sent %v, left out %q, want %q left out of 2", run.GetVolumes(), got, kept)
				}
			}

			s := session()
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			if run := s.runs()[0]; len(run.GetKeptVolumes()) > 0 || len(run.GetVolumes()) != 2 {
				t.Errorf("first sent with %v, left out %q", run.GetVolumes(), run.GetKeptVolumes())
			}
			label("once")
			eventually.Holds(t, "change sent", func() bool { return len(s.runs()) == 2 })
			check(s.runs()[1], "secret", "v")
			held := &edgeapi.PodDigest{Uid: s.runs()[1].GetUid(), Digest: s.runs()[1].GetDigest(), VolumesDigest: s.runs()[1].GetVolumesDigest()}
			c.cut(s, "gone")

			// With another pod but the same volumes, by their digest.
			label("while it was away")
			s = session(held)
			eventually.Holds(t, "change sent over another link", func() bool { return len(s.runs()) == 1 })
			check(s.runs()[0], "secret", "v")
		})
	}
}

// A pod on a device takes changes though its RuntimeClass is gone: the device keeps the handler that it has.
func TestChangedPodWithoutItsRuntimeClass(t *testing.T) {
	for name, features := range map[string][]string{"with the feature": {edgeapi.FeatureKeptRuntimeHandler}, "an older agent": nil} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc"}
			c := newCluster(t, time.Hour, ed, class, edgePod("p", "d1", func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class.Name }))
			session := func(held ...*edgeapi.PodDigest) *session { return c.connectWith(features, ed, held...) }
			change := func(deadline int64) {
				t.Helper()
				p := c.pod("p")
				p.Generation, p.Spec.ActiveDeadlineSeconds = p.Generation+1, &deadline
				if _, err := c.kube.CoreV1().Pods("edge").Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			check := func(run *edgeapi.RunPod, handler string, deadline int64) {
				t.Helper()
				var sent corev1.Pod
				if err := sent.Unmarshal(run.GetPod()); err != nil {
					t.Fatal(err)
				}
				if got := sent.Spec.RuntimeClassName; got == nil || *got != handler || ptr.Deref(sent.Spec.ActiveDeadlineSeconds, 0) != deadline {
					t.Errorf("sent with the handler %q and the deadline %d, want %q and %d",
						ptr.Deref(got, "none"), ptr.Deref(sent.Spec.ActiveDeadlineSeconds, 0), handler, deadline)
				}
			}

			s := session()
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			check(s.runs()[0], "runsc", 0)
			isRunning := func() bool { return c.pod("p").Status.Phase == corev1.PodRunning }
			c.report(s, c.pod("p"), running())
			eventually.Holds(t, "running", isRunning)
			c.deleteRuntimeClass(class.Name)
			change(100)
			failedSync := func() bool { return slices.Contains(c.events("Pod", "p"), "FailedSync") }
			if features == nil {
				eventually.Holds(t, "told that the change has to wait", failedSync)
				if len(s.runs()) > 1 {
					t.Error("the change was sent to a device that would lose its handler by it")
				}
				return
			}
			eventually.Holds(t, "change sent", func() bool { return len(s.runs()) == 2 })
			check(s.runs()[1], "", 100)

			held := &edgeapi.PodDigest{Uid: s.runs()[1].GetUid(), Digest: s.runs()[1].GetDigest()}
			c.cut(s, "gone")
			s = session(held)
			change(50)
			eventually.Holds(t, "change sent over another link", func() bool { return len(s.runs()) == 1 })
			check(s.runs()[0], "", 50)
			if failedSync() {
				t.Error("a change that was sent is told to wait")
			}

			eventually.Holds(t, "running still", isRunning) // a change writes all of the pod
			c.cut(s, "gone, and its record with it")
			s = session()
			eventually.Holds(t, "told that the pod has to wait", failedSync)
			if len(s.runs()) > 0 {
				t.Error("the pod was sent without a handler to a device that has none of it")
			}
		})
	}
}

// connectWith brings up a link of a device that has these features and holds these pods.
func (c *cluster) connectWith(features []string, ed *aranya.EdgeDevice, held ...*edgeapi.PodDigest) *session {
	s := newSession(ed, held...)
	s.hello.Features = features
	return c.connect(s)
}

// deleteRuntimeClass returns when the controllers know that it is gone.
func (c *cluster) deleteRuntimeClass(name string) {
	c.t.Helper()
	eventually.Holds(c.t, "RuntimeClasses watched", func() bool { return watched(c.kube.Actions(), "runtimeclasses") })
	if err := c.kube.NodeV1().RuntimeClasses().Delete(c.ctx, name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	eventually.Holds(c.t, "RuntimeClass gone", func() bool {
		_, err := c.controllers.kube.Node().V1().RuntimeClasses().Lister().Get(name)
		return apierrors.IsNotFound(err)
	})
}
