package aranya

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceExecOptions are the query parameters of edgedevices/exec: a command on the device's
// host, or in a container if pod is set.
type EdgeDeviceExecOptions struct {
	metav1.TypeMeta
	Stdin     bool
	Stdout    bool
	Stderr    bool
	TTY       bool
	Pod       string
	Container string
	Command   []string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceAttachOptions are the query parameters of edgedevices/attach: the login shell of the
// device's host, or a running container if pod is set.
type EdgeDeviceAttachOptions struct {
	metav1.TypeMeta
	Stdin     bool
	Stdout    bool
	Stderr    bool
	TTY       bool
	Pod       string
	Container string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceLogOptions are the query parameters of edgedevices/log: the agent's own log, a log file
// or journal unit of the host, or a container's log. At most one of pod, path and unit may be set.
type EdgeDeviceLogOptions struct {
	metav1.TypeMeta
	Pod          string
	Container    string
	Path         string
	Unit         string
	Follow       bool
	Previous     bool
	SinceSeconds *int64
	SinceTime    *metav1.Time
	Timestamps   bool
	TailLines    *int64
	LimitBytes   *int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDevicePortForwardOptions are the query parameters of edgedevices/portforward: ports of the
// device's loopback, of a pod on it, or of a host on its network that its agent allows.
type EdgeDevicePortForwardOptions struct {
	metav1.TypeMeta
	Ports []int32
	Pod   string
	Host  string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceProxyOptions are the query parameters of edgedevices/proxy. The device is named as
// [scheme:]name[:port], as in services/proxy: scheme is http (the default) or https.
type EdgeDeviceProxyOptions struct {
	metav1.TypeMeta
	Path string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EnrollmentToken is created through edgedevices/token. The token in its status lets one agent enrol
// once as that EdgeDevice. It is kept nowhere and cannot be read again. When a device enrols, all
// tokens that were issued for the EdgeDevice until then become void.
type EnrollmentToken struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   EnrollmentTokenSpec
	Status EnrollmentTokenStatus
}

// EnrollmentTokenSpec is what is asked for.
type EnrollmentTokenSpec struct {
	ExpirationSeconds *int64
}

// EnrollmentTokenStatus holds an enrolment token.
type EnrollmentTokenStatus struct {
	Token               string
	ExpirationTimestamp metav1.Time
	Server              string
}
