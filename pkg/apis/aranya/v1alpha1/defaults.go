package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// What spec.connectivity.heartbeatInterval is if it is not set. It is not filled in, because it depends on the link
// that the device comes over, which need not be that of the method.
const (
	DefaultHeartbeatInterval = 40 * time.Second
	// DefaultMQTTHeartbeatInterval is long because a broker tells by itself when a device is lost: by its
	// keepalive and the will. What is left for heartbeats is to find a broker that does not.
	DefaultMQTTHeartbeatInterval = 30 * time.Minute
)

func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}

// SetDefaults_EdgeDeviceStatus sets the phase of a device that nobody has seen yet.
func SetDefaults_EdgeDeviceStatus(obj *EdgeDeviceStatus) { //nolint:staticcheck // defaulter-gen finds it by this name
	if obj.Phase == "" {
		obj.Phase = EdgeDevicePending
	}
}
