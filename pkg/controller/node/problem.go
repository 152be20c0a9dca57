package node

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Problem says why a Node is not brought up to date. The zero Problem is none.
type Problem struct {
	Reason  string // of an event and of the condition NodeReady
	Message string
}

// unusable says that no Node can be made of what a device says.
type unusable struct{ error }

// Problem returns why the Node of a device cannot be brought up to date.
func (c *Controller) Problem(key types.NamespacedName) Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problems[key]
}

// invalidRetry is how soon it is tried again to make a Node of what is invalid, if neither the device nor its spec change
// before: policies of the cluster may call it so as well.
const invalidRetry = time.Minute

// tell has people know why a Node cannot be brought up to date, once. Nobody is told of what fails by chance.
func (c *Controller) tell(ctx context.Context, ed *aranya.EdgeDevice, again time.Duration, err error) (time.Duration, error) {
	var problem Problem
	_, invalid := errors.AsType[*unusable](err)
	invalid = invalid || apierrors.IsInvalid(err)
	switch {
	case err == nil:
	case invalid:
		problem = Problem{aranya.ReasonNodeInvalid, "Cannot bring the Node up to date: " + clip.String(err.Error(), maxMessage)}
	case refused(err):
		problem = Problem{aranya.ReasonNodeRefused, "The cluster refuses what aranya writes of the Node: " + clip.String(err.Error(), maxMessage)}
	default:
		return 0, err
	}
	key := links.Key(gateway.DeviceOf(ed))
	c.mu.Lock()
	former := c.problems[key]
	if c.problems[key] = problem; problem == (Problem{}) {
		delete(c.problems, key)
	}
	c.mu.Unlock()
	if problem != former {
		if problem != (Problem{}) {
			klog.FromContext(ctx).Error(err, "Cannot bring the Node up to date")
			c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, problem.Reason, "%s", problem.Message)
		}
		c.config.Changed(key)
	}
	if invalid {
		return invalidRetry, nil
	}
	return again, err
}

// refused says whether the cluster has refused a request in a way that is likely to need somebody: by its rights, a
// policy or a webhook, also one that does not answer.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	s := status.Status()
	switch s.Code {
	case http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests:
		return false
	case http.StatusInternalServerError:
		// What goes wrong in etcd has no reason, such as an election. Neither has what a webhook calls so itself.
		return s.Reason == metav1.StatusReasonInternalError || strings.HasPrefix(s.Message, "admission webhook ")
	default:
		return s.Code >= http.StatusBadRequest && s.Code < http.StatusInternalServerError
	}
}
