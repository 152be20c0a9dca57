package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	webhookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	clienttesting "k8s.io/client-go/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Who looks at a device whose Node the cluster does not take is told what the cluster says; not so of what passes by
// itself.
func TestProblem(t *testing.T) {
	nodes := corev1.Resource("nodes")
	for name, tt := range map[string]struct {
		err    error
		reason string
		again  time.Duration // 0: with the back-off of what fails
	}{
		"a policy":                   {err: apierrors.NewForbidden(nodes, "n", errors.New("no Nodes here")), reason: aranya.ReasonNodeRefused},
		"a webhook":                  {err: apierrors.NewInternalError(errors.New("failed calling webhook: no Nodes here")), reason: aranya.ReasonNodeRefused},
		"a webhook that says 500":    {err: webhookerrors.ToStatusErr("hook", &metav1.Status{Code: 500, Message: "no Nodes here"}), reason: aranya.ReasonNodeRefused},
		"etcd elects a leader":       {err: &apierrors.StatusError{ErrStatus: *responsewriters.ErrorToAPIStatus(errors.New("etcdserver: leader changed"))}},
		"invalid":                    {err: apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Node").GroupKind(), "no Nodes here", nil), reason: aranya.ReasonNodeInvalid, again: invalidRetry},
		"it exists already":          {err: apierrors.NewAlreadyExists(nodes, "n")},
		"the API server has no time": {err: apierrors.NewTooManyRequests("later", 1)},
		"the API server is going":    {err: apierrors.NewServiceUnavailable("later")},
		"there is no API server":     {err: errors.New("connection refused")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			key := links.Key(gateway.DeviceOf(r.ed))
			changes := 0
			r.config.Changed = func(types.NamespacedName) { changes++ }
			fails := tt.err
			r.kube.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return fails != nil, nil, fails })
			for range 2 {
				if _, again, err := r.sync(); again != tt.again || (err == nil) != (again > 0) {
					t.Errorf("again after %s, error %v", again, err)
				}
				problem := r.Problem(key)
				if problem.Reason != tt.reason || tt.reason != "" && !strings.Contains(problem.Message, "no Nodes here") {
					t.Errorf("told %+v", problem)
				}
			}
			if told := changes == 1; told != (tt.reason != "") {
				t.Errorf("told of %d changes", changes)
			}
			fails = nil
			r.clock.Step(seenTime)
			if _, _, err := r.sync(); err != nil || r.Problem(key) != (Problem{}) {
				t.Errorf("afterwards: error %v, %+v", err, r.Problem(key))
			}
		})
	}
}

// The Node of a connected device must not be taken for lost, whatever the device says of itself.
func TestLeaseOfADeviceThatSaysNothingUsable(t *testing.T) {
	r := newRig(t)
	key := links.Key(gateway.DeviceOf(r.ed))
	r.expect("create")
	r.see("5", nil)
	r.leases.stop(r.ed.Name, r.ed.UID) // it was away
	r.config.Tracker.DeviceMessage(r.config.Tracker.Session(key, r.ed.UID), &edgeapi.DeviceMessage{
		Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: &edgeapi.NodeStatus{Status: []byte{0xff}}},
	})
	if _, _, err := r.sync(); err != nil || r.Problem(key).Reason != aranya.ReasonNodeInvalid {
		t.Errorf("error %v, problem %+v", err, r.Problem(key))
	}
	if r.leases.active[r.ed.Name] == nil {
		t.Error("its Lease is not renewed")
	}
}
