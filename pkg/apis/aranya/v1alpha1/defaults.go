package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Defaults of spec.connectivity.heartbeatInterval.
const (
	DefaultHeartbeatInterval = 40 * time.Second
	// DefaultMQTTHeartbeatInterval is long because a broker tells by itself when a device is lost: by its
	// keepalive and the will. What is left for heartbeats is to find a broker that does not.
	DefaultMQTTHeartbeatInterval = 30 * time.Minute
)

func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}

// SetDefaults_Connectivity sets what the +default markers cannot express.
func SetDefaults_Connectivity(obj *Connectivity) { //nolint:staticcheck // defaulter-gen finds it by this name
	if obj.HeartbeatInterval == nil {
		obj.HeartbeatInterval = &metav1.Duration{Duration: DefaultHeartbeatInterval}
		if brokerTells(obj) {
			obj.HeartbeatInterval.Duration = DefaultMQTTHeartbeatInterval
		}
	}
}

// brokerTells says whether both ends hear of each other's loss from a broker. A will of the user's own takes
// the place of the one by which devices hear of aranya's.
func brokerTells(obj *Connectivity) bool {
	return obj.Method == ConnectivityMQTT && (obj.MQTTConfig == nil || obj.MQTTConfig.ConnectPacket.Will == nil)
}

// SetDefaults_EdgeDeviceStatus sets the phase of a device that nobody has seen yet.
func SetDefaults_EdgeDeviceStatus(obj *EdgeDeviceStatus) { //nolint:staticcheck // defaulter-gen finds it by this name
	if obj.Phase == "" {
		obj.Phase = EdgeDevicePending
	}
}
