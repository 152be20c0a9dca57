package host

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// right is something that both policies must permit.
type right struct {
	what  string // for people
	cloud func(*edgeapi.HostPolicy) bool
	spec  string // field of the EdgeDevice
	local func(*Host) bool
	file  string // field of arhat.yaml
}

var (
	rightExec = right{
		"commands on the device's host",
		(*edgeapi.HostPolicy).GetAllowExec, "spec.host.allowExec",
		func(h *Host) bool { return ptr.Deref(h.config.Policy.HostExec, false) }, "policy.hostExec",
	}
	rightAttach = right{
		"attaching to the device's host",
		(*edgeapi.HostPolicy).GetAllowAttach, "spec.host.allowAttach",
		func(h *Host) bool { return ptr.Deref(h.config.Policy.HostAttach, false) }, "policy.hostAttach",
	}
	rightLog = right{
		"reading logs of the device's host",
		(*edgeapi.HostPolicy).GetAllowLog, "spec.host.allowLog",
		func(h *Host) bool { return ptr.Deref(h.config.Policy.HostLog.Allow, false) }, "policy.hostLog.allow",
	}
	rightLoopback = right{
		"connections to the device's loopback",
		(*edgeapi.HostPolicy).GetAllowPortForward, "spec.host.allowPortForward",
		func(h *Host) bool { return ptr.Deref(h.config.Policy.HostPortForward.AllowLoopback, false) }, "policy.hostPortForward.allowLoopback",
	}
	rightNetwork = right{
		"connections to the device's network",
		(*edgeapi.HostPolicy).GetAllowPortForward, "spec.host.allowPortForward",
		func(h *Host) bool { return len(h.config.Policy.HostPortForward.AllowedDestinations) > 0 }, "policy.hostPortForward.allowedDestinations",
	}
)

// demand refuses what one of the policies forbids, and says which.
func (h *Host) demand(r right) error {
	if !r.local(h) {
		return failf(metav1.StatusReasonForbidden, "the device's own policy forbids %s (%s in its arhat.yaml)", r.what, r.file)
	}
	if cloud := h.cloud.Load(); cloud == nil || !r.cloud(cloud) {
		return failf(metav1.StatusReasonForbidden, "the EdgeDevice forbids %s (%s)", r.what, r.spec)
	}
	return nil
}
