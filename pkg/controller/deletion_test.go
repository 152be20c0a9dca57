package controller

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/node"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestDeletionOfConnectedDevice(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })

	c.change("d1", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	eventually.Holds(t, "device asked to delete the pod with grace", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].GracePeriodSeconds > 0 })
	if !hasTaint(c.node("d1"), "arhat.dev/removing") {
		t.Error("the Node takes new pods while it is drained")
	}
	if c.device("d1") == nil {
		t.Fatal("the EdgeDevice went before its pods")
	}
	c.removed(s, c.pod("p"), nil)
	eventually.Holds(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
	if !slices.Contains(c.cuts(), s.device) {
		t.Error("the link was not cut")
	}
}

// A device that is deleted while its Node is being made is drained like any other.
func TestDeletionWhileTheNodeIsMade(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	c.kube.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		c.change("d1", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		for c.ctx.Err() == nil { // until the controllers have seen it
			if d, err := c.controllers.Directory().Get("edge", "d1"); err == nil && d.DeletionTimestamp != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		return false, nil, nil
	})
	s := c.connect(newSession(ed))
	eventually.Holds(t, "device asked to delete the pod with grace", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].GracePeriodSeconds > 0 })
	if c.node("d1") == nil || c.device("d1") == nil {
		t.Error("the Node or the EdgeDevice went before the pods")
	}
	c.removed(s, c.pod("p"), nil)
	eventually.Holds(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
}

// The generation of a pod grows with its deletion; its status is to tell of that.
func TestGenerationOfDeletedPod(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "device asked to delete it", func() bool { return len(s.deletes()) == 1 })
	if d := s.deletes()[0]; d.Generation != 2 {
		t.Errorf("got %v, want generation 2", d)
	}
	status := running()
	status.ObservedGeneration = 2
	c.report(s, c.pod("p"), status)
	eventually.Holds(t, "deletion observed", func() bool { return c.pod("p").Status.ObservedGeneration == 2 })
}

func TestDeletionOfAbsentDevice(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Finalizers = []string{aranya.FinalizerNode}
	n := ownNode(ed)
	c := newCluster(t, time.Hour, ed, n, edgePod("p", "d1"))
	c.change("d1", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	eventually.Holds(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
}

// An EdgeDevice that goes without its finalizer, after somebody has replaced it as a whole, leaves nothing behind.
func TestDeletionWithoutFinalizer(t *testing.T) {
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Lease", func() bool { clock.Step(time.Second); return c.lease("d1") != nil })
	c.change("d1", func(d *aranya.EdgeDevice) { d.Finalizers = nil })
	eventually.Holds(t, "finalizer put on again", func() bool { return slices.Contains(c.device("d1").Finalizers, aranya.FinalizerNode) })
	if err := c.kube.Tracker().Add(edgePod("p", "d1")); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	if err := c.edge.Tracker().Delete(edgeDevices, "edge", "d1"); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "everything gone", func() bool {
		clock.Step(100 * time.Millisecond)
		return c.pod("p") == nil && c.node("d1") == nil && c.lease("d1") == nil
	})
}

// One that went while aranya was down does neither.
func TestDeletionWhileDown(t *testing.T) {
	ed := edgeDevice("d1")
	other := edgeDevice("d2")
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "d1"}}
	c := newCluster(t, time.Hour, other, ownNode(ed), ownNode(other), lease, edgePod("p", "d1"))
	eventually.Holds(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.lease("d1") == nil })
	eventually.Holds(t, "event", func() bool { return slices.Contains(c.events("Node", "d1"), "RemovingNode") })
	eventually.Holds(t, "finalizer put on another one", func() bool { return slices.Contains(c.device("d2").Finalizers, aranya.FinalizerNode) })
	if c.node("d2") == nil {
		t.Error("the Node of another device is gone")
	}
}

// That there is no EdgeDevice at all is rather a lost database: what runs goes on until it is restored.
func TestEmptyDatabase(t *testing.T) {
	ed := edgeDevice("d1")
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "d1"}}
	c := newCluster(t, time.Hour, ownNode(ed), lease, edgePod("p", "d1"))
	eventually.Holds(t, "event", func() bool { return slices.Contains(c.events("Node", "d1"), "EdgeDeviceMissing") })
	other := edgeDevice("d2")
	if err := c.edge.Tracker().Add(other); err != nil {
		t.Fatal(err)
	}
	c.connect(newSession(other))
	eventually.Holds(t, "Node of another device", func() bool { return c.node("d2") != nil })
	if c.pod("p") == nil || c.node("d1") == nil || c.lease("d1") == nil {
		t.Error("the Node of a device that is not in the database any more, or its pod or Lease, was removed")
	}
}

// The same EdgeDevice created again, by whoever has its manifest, does not take the place of one that may be restored.
func TestEmptyDatabaseFilledAnew(t *testing.T) {
	c := newCluster(t, time.Hour, ownNode(edgeDevice("d1")), edgePod("p", "d1"))
	eventually.Holds(t, "left", func() bool { return node.Left(c.node("d1")) })
	ed := edgeDevice("d1")
	ed.UID = "created-anew"
	if err := c.edge.Tracker().Add(ed); err != nil {
		t.Fatal(err)
	}
	c.connect(newSession(ed))
	eventually.Holds(t, "conflict told", func() bool {
		ready := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
		return ready != nil && ready.Reason == aranya.ReasonConflict && strings.Contains(ready.Message, "restore its database")
	})
	if c.pod("p") == nil || c.node("d1") == nil {
		t.Error("the Node of the former EdgeDevice or its pod was removed")
	}
	if err := c.kube.CoreV1().Nodes().Delete(t.Context(), "d1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "Node of its own", func() bool { n := c.node("d1"); return n != nil && node.Owned(n, ed) })
}

// Without that, the Node of a former EdgeDevice goes, and nobody is told that it stays.
func TestFormerNodeIsReplaced(t *testing.T) {
	ed := edgeDevice("d1")
	ed.UID = "created-anew"
	c := newCluster(t, time.Hour, ed, ownNode(edgeDevice("d1")))
	c.connect(newSession(ed))
	eventually.Holds(t, "Node of its own", func() bool { n := c.node("d1"); return n != nil && node.Owned(n, ed) })
	eventually.Holds(t, "events", func() bool { return slices.Contains(c.events("EdgeDevice", "d1"), "NodeDeleted") })
	if slices.Contains(c.events("EdgeDevice", "d1"), aranya.ReasonConflict) {
		t.Error("told of a conflict")
	}
}

// A workload that tolerates every taint makes pods as long as there is a Node. That holds up neither the deletion
// nor the end of the link, and nothing of it gets to the device any more.
func TestDeletionWithRelentlessWorkload(t *testing.T) {
	for name, test := range map[string]struct {
		remove func(*aranya.EdgeDevice)
		gone   func(*cluster) bool
	}{
		"deleted": {
			remove: func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
			gone:   func(c *cluster) bool { return c.device("d1") == nil && len(c.cuts()) > 0 },
		},
		"without a Node": {
			remove: func(d *aranya.EdgeDevice) { d.Spec.Node.Disabled = true; d.Generation++ },
			gone:   func(*cluster) bool { return true },
		},
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			clock := clocktesting.NewFakeClock(time.Now())
			c := newClusterAt(t, clock, time.Hour, ed, edgePod("p", "d1"))
			made := 0
			next := func() error {
				made++
				clock.Step(time.Second)
				return c.kube.Tracker().Add(edgePod("p"+strconv.Itoa(made), "d1", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(clock.Now()) }))
			}
			c.kube.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if ptr.Deref(action.(clienttesting.DeleteActionImpl).DeleteOptions.GracePeriodSeconds, 30) > 0 {
					return false, nil, nil
				}
				_, err := c.kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("nodes"), "", "d1")
				if err == nil {
					err = next()
				}
				return err != nil && !apierrors.IsNotFound(err), nil, err
			})
			s := c.connect(newSession(ed))
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			c.change("d1", test.remove)
			eventually.Holds(t, "device asked to delete the pod with grace", func() bool {
				clock.Step(10 * time.Millisecond)
				return len(s.deletes()) > 0 && s.deletes()[0].GracePeriodSeconds > 0 // more with less, if memory lags behind
			})
			eventually.Holds(t, "event", func() bool { return slices.Contains(c.events("EdgeDevice", "d1"), "NodeDraining") })
			if err := next(); err != nil { // while the first one ends
				t.Fatal(err)
			}
			c.removed(s, c.pod("p"), nil)
			eventually.Holds(t, "everything gone", func() bool {
				clock.Step(100 * time.Millisecond)
				pods, err := c.kube.CoreV1().Pods("edge").List(c.ctx, metav1.ListOptions{})
				return err == nil && len(pods.Items) == 0 && c.node("d1") == nil && test.gone(c)
			})
			if n := len(s.runs()); n != 1 {
				t.Errorf("the device got %d pods", n)
			}
		})
	}
}

// A device says once what became of a pod. If that cannot be stored, the pod is gone all the same.
func TestUnusableLastStatus(t *testing.T) {
	for name, change := range map[string]func(*edgeapi.PodRemoved){
		"refused by the cluster": func(m *edgeapi.PodRemoved) {
			status := running()
			status.Message = "refused"
			data, err := status.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			m.Status = data
		},
		"undecodable": func(m *edgeapi.PodRemoved) { m.Status = []byte{0xff} },
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			c := newCluster(t, time.Hour, ed, ownNode(ed), edgePod("p", "d1"))
			var phase atomic.Value
			c.kube.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				patch := string(a.(clienttesting.PatchAction).GetPatch())
				if strings.Contains(patch, `"message":"refused"`) {
					return true, nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), "p", nil)
				}
				if strings.Contains(patch, `"phase":"Failed"`) {
					phase.Store(corev1.PodFailed)
				}
				return false, nil, nil
			})
			s := c.connect(newSession(ed))
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			c.report(s, c.pod("p"), running())
			eventually.Holds(t, "runs", func() bool { return c.pod("p").Status.Phase == corev1.PodRunning })
			if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "p", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "device asked to delete it", func() bool { return len(s.deletes()) == 1 })
			message := &edgeapi.PodRemoved{Uid: "uid-of-p", Namespace: "edge", Name: "p"}
			change(message)
			c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodRemoved{PodRemoved: message}})
			eventually.Holds(t, "gone", func() bool { return c.pod("p") == nil })
			if phase.Load() != corev1.PodFailed {
				t.Error("it did not fail before")
			}
		})
	}
}
