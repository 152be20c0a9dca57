package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceExecOptions are the query parameters of edgedevices/exec: a command on the device's
// host, or in a container if pod is set.
type EdgeDeviceExecOptions struct {
	metav1.TypeMeta `json:",inline"`

	// stdin redirects the standard input of the command. Defaults to false.
	// +optional
	Stdin bool `json:"stdin,omitempty" protobuf:"varint,1,opt,name=stdin"`
	// stdout redirects the standard output of the command.
	// +optional
	Stdout bool `json:"stdout,omitempty" protobuf:"varint,2,opt,name=stdout"`
	// stderr redirects the standard error of the command. Not together with tty.
	// +optional
	Stderr bool `json:"stderr,omitempty" protobuf:"varint,3,opt,name=stderr"`
	// tty runs the command in a terminal. Defaults to false.
	// +optional
	TTY bool `json:"tty,omitempty" protobuf:"varint,4,opt,name=tty"`
	// pod on this device, in the device's namespace or as namespace/name. The host itself if empty.
	// +optional
	Pod string `json:"pod,omitempty" protobuf:"bytes,5,opt,name=pod"`
	// container of the pod. Defaults to the one that the annotation kubectl.kubernetes.io/default-container
	// names, else to the first.
	// +optional
	Container string `json:"container,omitempty" protobuf:"bytes,6,opt,name=container"`
	// command is the argument vector. It is not run by a shell.
	// +listType=atomic
	Command []string `json:"command" protobuf:"bytes,7,rep,name=command"`
}

// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceAttachOptions are the query parameters of edgedevices/attach: the login shell of the
// device's host, or a running container if pod is set.
type EdgeDeviceAttachOptions struct {
	metav1.TypeMeta `json:",inline"`

	// stdin redirects the standard input.
	// +optional
	Stdin bool `json:"stdin,omitempty" protobuf:"varint,1,opt,name=stdin"`
	// stdout redirects the standard output.
	// +optional
	Stdout bool `json:"stdout,omitempty" protobuf:"varint,2,opt,name=stdout"`
	// stderr redirects the standard error. Not together with tty.
	// +optional
	Stderr bool `json:"stderr,omitempty" protobuf:"varint,3,opt,name=stderr"`
	// tty attaches to a terminal. It must match how the container was started.
	// +optional
	TTY bool `json:"tty,omitempty" protobuf:"varint,4,opt,name=tty"`
	// pod on this device, in the device's namespace or as namespace/name. The host itself if empty.
	// +optional
	Pod string `json:"pod,omitempty" protobuf:"bytes,5,opt,name=pod"`
	// container of the pod. Defaults to the one that the annotation kubectl.kubernetes.io/default-container
	// names, else to the first.
	// +optional
	Container string `json:"container,omitempty" protobuf:"bytes,6,opt,name=container"`
}

// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceLogOptions are the query parameters of edgedevices/log: the agent's own log, a log file
// or journal unit of the host, or a container's log. At most one of pod, path and unit may be set.
type EdgeDeviceLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	// pod on this device, in the device's namespace or as namespace/name.
	// +optional
	Pod string `json:"pod,omitempty" protobuf:"bytes,1,opt,name=pod"`
	// container of the pod. Defaults to the one that the annotation kubectl.kubernetes.io/default-container
	// names, else to the first.
	// +optional
	Container string `json:"container,omitempty" protobuf:"bytes,2,opt,name=container"`
	// path of a log file on the host, which the device's policy must allow.
	// +optional
	Path string `json:"path,omitempty" protobuf:"bytes,3,opt,name=path"`
	// unit of the host's systemd journal.
	// +optional
	Unit string `json:"unit,omitempty" protobuf:"bytes,4,opt,name=unit"`
	// follow the log.
	// +optional
	Follow bool `json:"follow,omitempty" protobuf:"varint,5,opt,name=follow"`
	// previous returns the log of the container's previous instance. Only with pod.
	// +optional
	Previous bool `json:"previous,omitempty" protobuf:"varint,6,opt,name=previous"`
	// sinceSeconds is a relative time before now from which on to show lines. Not with path.
	// +optional
	SinceSeconds *int64 `json:"sinceSeconds,omitempty" protobuf:"varint,7,opt,name=sinceSeconds"`
	// sinceTime is the time from which on to show lines. Not together with sinceSeconds.
	// +optional
	SinceTime *metav1.Time `json:"sinceTime,omitempty" protobuf:"bytes,8,opt,name=sinceTime"`
	// timestamps adds an RFC 3339 timestamp to the beginning of every line. Not with path.
	// +optional
	Timestamps bool `json:"timestamps,omitempty" protobuf:"varint,9,opt,name=timestamps"`
	// tailLines is the number of lines from the end to show.
	// +optional
	TailLines *int64 `json:"tailLines,omitempty" protobuf:"varint,10,opt,name=tailLines"`
	// limitBytes is the number of bytes after which the log is cut off.
	// +optional
	LimitBytes *int64 `json:"limitBytes,omitempty" protobuf:"varint,11,opt,name=limitBytes"`
}

// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDevicePortForwardOptions are the query parameters of edgedevices/portforward: ports of the
// device's loopback, of a pod on it, or of a host on its network that its agent allows.
type EdgeDevicePortForwardOptions struct {
	metav1.TypeMeta `json:",inline"`

	// ports to forward. Needed by WebSocket clients that name their ports in the request.
	// +optional
	// +listType=atomic
	Ports []int32 `json:"ports,omitempty" protobuf:"varint,1,rep,name=ports"`
	// pod on this device, in the device's namespace or as namespace/name.
	// +optional
	Pod string `json:"pod,omitempty" protobuf:"bytes,2,opt,name=pod"`
	// host on the device's network. Not together with pod.
	// +optional
	Host string `json:"host,omitempty" protobuf:"bytes,3,opt,name=host"`
}

// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceProxyOptions are the query parameters of edgedevices/proxy. The device is named as
// [scheme:]name[:port], as in services/proxy: scheme is http (the default) or https.
type EdgeDeviceProxyOptions struct {
	metav1.TypeMeta `json:",inline"`

	// path is the path of the request to the device's port.
	// +optional
	Path string `json:"path,omitempty" protobuf:"bytes,1,opt,name=path"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EnrollmentToken is created through edgedevices/token. The token in its status lets one agent enrol
// once as that EdgeDevice. It is kept nowhere and cannot be read again. When a device enrols, all
// tokens that were issued for the EdgeDevice until then become void.
type EnrollmentToken struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is what is asked for.
	// +optional
	Spec EnrollmentTokenSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`
	// status holds the token.
	// +optional
	Status EnrollmentTokenStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// EnrollmentTokenSpec is what is asked for.
type EnrollmentTokenSpec struct {
	// expirationSeconds is how long the token is valid, from 60 to 604800 (a week). Defaults to 3600.
	// +optional
	// +default=3600
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty" protobuf:"varint,1,opt,name=expirationSeconds"`
}

// EnrollmentTokenStatus holds an enrolment token.
type EnrollmentTokenStatus struct {
	// token for "arhat join --token". It carries the hash of the CA that the agent must find on the
	// gateway, so that the agent needs to trust nothing else.
	// +optional
	Token string `json:"token,omitempty" protobuf:"bytes,1,opt,name=token"`
	// expirationTimestamp is when the token stops being valid.
	// +optional
	ExpirationTimestamp metav1.Time `json:"expirationTimestamp,omitempty" protobuf:"bytes,2,opt,name=expirationTimestamp"`
	// server is the address for "arhat join --server": that of the device's broker if its method is mqtt,
	// else the gateway's, if aranya knows one that devices can reach.
	// +optional
	Server string `json:"server,omitempty" protobuf:"bytes,3,opt,name=server"`
}
