package apiserver

import (
	"errors"
	"net/http"
	"sync/atomic"

	"k8s.io/apiserver/pkg/server/healthz"
)

// readiness is what /readyz asks of aranya's own parts. (etcd, informers of admission and the end of
// the start-up are asked by the generic server.) A replica that is not ready gets no requests, so these
// say whether requests would be served, and not whether all is well with devices or the main cluster.
type readiness struct {
	// devicesSynced says whether the EdgeDevices are known: before, links are refused.
	devicesSynced func() bool
	// callersKnown says whether the CA of kube-apiserver's proxy certificate is there: before, all
	// that it passes on is unauthorized.
	callersKnown func() bool
	gateway      atomic.Bool
	kubelet      atomic.Bool
}

func (r *readiness) checks() []healthz.HealthChecker {
	return []healthz.HealthChecker{
		check("edgedevice-informer-sync", r.devicesSynced, "the EdgeDevices are not known yet"),
		check("front-proxy-ca", r.callersKnown, "the CA of kube-apiserver's proxy certificate is not loaded"),
		check("gateway", r.gateway.Load, "the gateway does not serve devices"),
		check("kubelet-endpoint", r.kubelet.Load, "the kubelet endpoint does not serve"),
	}
}

func check(name string, ok func() bool, otherwise string) healthz.HealthChecker {
	err := errors.New(otherwise)
	return healthz.NamedCheck(name, func(*http.Request) error {
		if !ok() {
			return err
		}
		return nil
	})
}
