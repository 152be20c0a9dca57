package controller

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestDeletionOfConnectedDevice(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually(t, "pod sent", func() bool { return len(s.runs()) == 1 })

	c.change("d1", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	eventually(t, "device asked to delete the pod with grace", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].GracePeriodSeconds > 0 })
	if !hasTaint(c.node("d1"), "arhat.dev/removing") {
		t.Error("the Node takes new pods while it is drained")
	}
	if c.device("d1") == nil {
		t.Fatal("the EdgeDevice went before its pods")
	}
	c.removed(s, c.pod("p"), nil)
	eventually(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.disconnected, s.device) {
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
	eventually(t, "device asked to delete the pod with grace", func() bool { return len(s.deletes()) == 1 && s.deletes()[0].GracePeriodSeconds > 0 })
	if c.node("d1") == nil || c.device("d1") == nil {
		t.Error("the Node or the EdgeDevice went before the pods")
	}
	c.removed(s, c.pod("p"), nil)
	eventually(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
}

func TestDeletionOfAbsentDevice(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Finalizers = []string{aranya.FinalizerNode}
	n := ownNode(ed)
	c := newCluster(t, time.Hour, ed, n, edgePod("p", "d1"))
	c.change("d1", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	eventually(t, "everything gone", func() bool { return c.pod("p") == nil && c.node("d1") == nil && c.device("d1") == nil })
}

// ownNode is the Node of a device from before a restart.
