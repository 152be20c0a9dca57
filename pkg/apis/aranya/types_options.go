package aranya

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceExecOptions are the query parameters of edgedevices/exec: a command on the device's
// host, or in a container if pod is set.
type EdgeDeviceExecOptions struct {
	metav1.TypeMeta

	// stdin redirects the standard input of the command. Defaults to false.
	Stdin bool
	// stdout redirects the standard output of the command.
	Stdout bool
	// stderr redirects the standard error of the command. Not together with tty.
	Stderr bool
	// tty runs the command in a terminal. Defaults to false.
	TTY bool
	// pod on this device, in the device's namespace or as namespace/name. The host itself if empty.
	Pod string
	// container of the pod. Defaults to the only container, if there is only one.
	Container string
	// command is the argument vector. It is not run by a shell.
	Command []string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceAttachOptions are the query parameters of edgedevices/attach: the login shell of the
// device's host, or a running container if pod is set.
type EdgeDeviceAttachOptions struct {
	metav1.TypeMeta

	// stdin redirects the standard input.
	Stdin bool
	// stdout redirects the standard output.
	Stdout bool
	// stderr redirects the standard error. Not together with tty.
	Stderr bool
	// tty attaches to a terminal. It must match how the container was started.
	TTY bool
	// pod on this device, in the device's namespace or as namespace/name. The host itself if empty.
	Pod string
	// container of the pod. Defaults to the only container, if there is only one.
	Container string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceLogOptions are the query parameters of edgedevices/log: the agent's own log, a log file
// or journal unit of the host, or a container's log. At most one of pod, path and unit may be set.
type EdgeDeviceLogOptions struct {
	metav1.TypeMeta

	// pod on this device, in the device's namespace or as namespace/name.
	Pod string
	// container of the pod. Defaults to the only container, if there is only one.
	Container string
	// path of a log file on the host, which the device's policy must allow.
	Path string
	// unit of the host's systemd journal.
	Unit string
	// follow the log.
	Follow bool
	// previous returns the log of the container's previous instance. Only with pod.
	Previous bool
	// sinceSeconds is a relative time before now from which on to show lines. Not with path.
	SinceSeconds *int64
	// sinceTime is the time from which on to show lines. Not together with sinceSeconds.
	SinceTime *metav1.Time
	// timestamps adds an RFC 3339 timestamp to the beginning of every line. Not with path.
	Timestamps bool
	// tailLines is the number of lines from the end to show.
	TailLines *int64
	// limitBytes is the number of bytes after which the log is cut off.
	LimitBytes *int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDevicePortForwardOptions are the query parameters of edgedevices/portforward: ports of the
// device's loopback, of a pod on it, or of a host on its network that its agent allows.
type EdgeDevicePortForwardOptions struct {
	metav1.TypeMeta

	// ports to forward. Needed by WebSocket clients that name their ports in the request.
	Ports []int32
	// pod on this device, in the device's namespace or as namespace/name.
	Pod string
	// host on the device's network. Not together with pod.
	Host string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceProxyOptions are the query parameters of edgedevices/proxy. The device is named as
// [scheme:]name[:port], as in services/proxy: scheme is http (the default) or https.
type EdgeDeviceProxyOptions struct {
	metav1.TypeMeta

	// path is the path of the request to the device's port.
	Path string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EnrollmentToken is created through edgedevices/token. The token in its status lets one agent enrol
// once as that EdgeDevice. Only a hash of it is kept, so that it cannot be read again.
type EnrollmentToken struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	// spec is what is asked for.
	Spec EnrollmentTokenSpec
	// status holds the token.
	Status EnrollmentTokenStatus
}

// EnrollmentTokenSpec is what is asked for.
type EnrollmentTokenSpec struct {
	// expirationSeconds is how long the token is valid, from 60 to 604800 (a week). Defaults to 3600.
	ExpirationSeconds *int64
}

// EnrollmentTokenStatus holds an enrolment token.
type EnrollmentTokenStatus struct {
	// token for "arhat join --token". It carries the hash of the CA that the agent must find on the
	// gateway, so that the agent needs to trust nothing else.
	Token string
	// expirationTimestamp is when the token stops being valid.
	ExpirationTimestamp metav1.Time
	// server is the gateway's address for "arhat join --server", if aranya knows an address that
	// devices can reach.
	Server string
}
