package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +genclient
// +genclient:method=CreateToken,verb=create,subresource=token,input=EnrollmentToken,result=EnrollmentToken
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDevice is a machine at the edge that dials in to aranya: behind NAT, on a metered link, or
// reachable only through a message broker. While the device runs the arhat agent and is enrolled,
// commands, logs and port-forwards reach it through the subresources of its EdgeDevice, and
// (unless spec.node.disabled is set) a Node of the same name lets the scheduler place pods on it.
type EdgeDevice struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. The name of the EdgeDevice is also the name of its Node; it has at
	// most 63 characters.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the desired configuration of the device.
	// +optional
	Spec EdgeDeviceSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`

	// status is what aranya knows of the device. While the device is connected, the fields phase, lastSeen,
	// device, link, usage and traffic are taken from its link on every read (GET and LIST). Watches and
	// selectors see what is stored: phase, lastSeen and device as of the last write, the others never.
	// +optional
	Status EdgeDeviceStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceList is a list of EdgeDevices.
type EdgeDeviceList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of EdgeDevices.
	Items []EdgeDevice `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// EdgeDeviceSpec is the desired configuration of a device.
type EdgeDeviceSpec struct {
	// connectivity says how the device and aranya reach each other.
	// +optional
	Connectivity Connectivity `json:"connectivity,omitempty" protobuf:"bytes,1,opt,name=connectivity"`

	// node configures the Node that represents the device in the cluster.
	// +optional
	Node NodeSpec `json:"node,omitempty" protobuf:"bytes,2,opt,name=node"`

	// pod configures how pods run on the device.
	// +optional
	Pod PodSpec `json:"pod,omitempty" protobuf:"bytes,3,opt,name=pod"`

	// host says what the cloud side may do on the device's host itself. The device's own policy
	// (arhat.yaml) can forbid more; it can never be widened from here.
	// +optional
	Host HostSpec `json:"host,omitempty" protobuf:"bytes,4,opt,name=host"`
}

// NamespaceTaint is what the taint arhat.dev/namespace=<namespace> of a device's Node does to pods
// that do not tolerate it.
// +enum
type NamespaceTaint string

const (
	// NamespaceTaintNoSchedule keeps pods without a toleration from being scheduled to the device.
	NamespaceTaintNoSchedule NamespaceTaint = "NoSchedule"
	// NamespaceTaintPreferNoSchedule has the scheduler avoid the device for such pods.
	NamespaceTaintPreferNoSchedule NamespaceTaint = "PreferNoSchedule"
	// NamespaceTaintNoExecute also evicts such pods.
	NamespaceTaintNoExecute NamespaceTaint = "NoExecute"
	// NamespaceTaintNone leaves the taint out: any pod may land on the device.
	NamespaceTaintNone NamespaceTaint = "None"
)

// NodeSpec configures the Node that represents a device.
type NodeSpec struct {
	// disabled leaves the device without a Node. It is still enrolled, managed and reachable through
	// its subresources, runs no pods from the cluster, and costs kube-apiserver nothing.
	// +optional
	Disabled bool `json:"disabled,omitempty" protobuf:"varint,1,opt,name=disabled"`

	// labels are put on the Node. Labels that aranya sets itself (arhat.dev/role, arhat.dev/name,
	// arhat.dev/namespace, kubernetes.io/arch, kubernetes.io/os, kubernetes.io/hostname, and the beta
	// forms of arch and os) are not allowed, nor are those that a kubelet may not set on its own Node:
	// those of node-restriction.kubernetes.io, and of kubernetes.io and k8s.io all but the well-known ones
	// (topology.kubernetes.io/zone, node.kubernetes.io/instance-type, ...). Administrators set them on the
	// Node itself. At most 128.
	// +optional
	Labels map[string]string `json:"labels,omitempty" protobuf:"bytes,2,rep,name=labels"`

	// annotations are put on the Node. Annotations that aranya or the control plane sets
	// (arhat.dev/edgedevice-uid, arhat.dev/edgedevice-missing-since, arhat.dev/applied,
	// metrics.k8s.io/resource-metrics-path, node.alpha.kubernetes.io/ttl) are not allowed. At most 128, and
	// 64 KiB.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty" protobuf:"bytes,3,rep,name=annotations"`

	// taints are put on the Node, beside the one of namespaceTaint. The taints that aranya (arhat.dev/removing)
	// and the control plane set and remove as the Node's state changes (node.kubernetes.io/not-ready,
	// unreachable, unschedulable, ...) are not allowed. At most 64.
	// +optional
	// +listType=atomic
	Taints []corev1.Taint `json:"taints,omitempty" protobuf:"bytes,4,rep,name=taints"`

	// unschedulable keeps new pods off the device, as "kubectl cordon" does on its Node. A Node that
	// was cordoned directly stays so.
	// +optional
	Unschedulable bool `json:"unschedulable,omitempty" protobuf:"varint,5,opt,name=unschedulable"`

	// namespaceTaint is the effect of the Node's taint arhat.dev/namespace=<namespace>: NoSchedule
	// (the default), PreferNoSchedule, NoExecute, or None for no such taint.
	// +optional
	// +default="NoSchedule"
	NamespaceTaint NamespaceTaint `json:"namespaceTaint,omitempty" protobuf:"bytes,6,opt,name=namespaceTaint,casttype=NamespaceTaint"`
}

// PodSpec configures how pods run on a device.
type PodSpec struct {
	// capacity is how many pods the device may run, from 1 to 1000. Defaults to 110.
	// +optional
	// +default=110
	Capacity *int32 `json:"capacity,omitempty" protobuf:"varint,1,opt,name=capacity"`

	// dns is what pods with dnsPolicy ClusterFirst use: a device has no route to the cluster's DNS.
	// At least one and at most three nameservers. Without it such pods use the device's own resolver.
	// +optional
	DNS *corev1.PodDNSConfig `json:"dns,omitempty" protobuf:"bytes,2,opt,name=dns"`
}

// HostSpec says what the cloud side may do on the device's host. Everything is allowed by default
// to those whom RBAC allows the subresource.
type HostSpec struct {
	// allowExec permits commands on the host through edgedevices/exec. Defaults to true.
	// +optional
	// +default=true
	AllowExec *bool `json:"allowExec,omitempty" protobuf:"varint,1,opt,name=allowExec"`

	// allowAttach permits attaching to the host's console shell through edgedevices/attach.
	// Defaults to true.
	// +optional
	// +default=true
	AllowAttach *bool `json:"allowAttach,omitempty" protobuf:"varint,2,opt,name=allowAttach"`

	// allowLog permits reading host logs through edgedevices/log. Defaults to true.
	// +optional
	// +default=true
	AllowLog *bool `json:"allowLog,omitempty" protobuf:"varint,3,opt,name=allowLog"`

	// allowPortForward permits connections to ports of the host, and of its network where the device
	// itself allows that, through edgedevices/portforward and edgedevices/proxy. Defaults to true.
	// +optional
	// +default=true
	AllowPortForward *bool `json:"allowPortForward,omitempty" protobuf:"varint,4,opt,name=allowPortForward"`
}

// EdgeDevicePhase is a one-word summary of a device's state.
// +enum
type EdgeDevicePhase string

const (
	// EdgeDevicePending means that no agent has enrolled as this device yet.
	EdgeDevicePending EdgeDevicePhase = "Pending"
	// EdgeDeviceOnline means that the device has a live link.
	EdgeDeviceOnline EdgeDevicePhase = "Online"
	// EdgeDeviceOffline means that the device is enrolled but has no live link.
	EdgeDeviceOffline EdgeDevicePhase = "Offline"
)

// Types of conditions of an EdgeDevice.
const (
	// EdgeDeviceEnrolled is True once a certificate was issued to the device's agent.
	EdgeDeviceEnrolled = "Enrolled"
	// EdgeDeviceConnected is True while the device has a live link.
	EdgeDeviceConnected = "Connected"
	// EdgeDeviceNodeReady mirrors the Ready condition of the device's Node. It is False with the
	// reason NodeNameConflict if a Node of that name exists that aranya does not own.
	EdgeDeviceNodeReady = "NodeReady"
	// EdgeDeviceBrokerConnected is True while aranya is connected to the MQTT broker of the device. Only
	// devices with the method mqtt have it.
	EdgeDeviceBrokerConnected = "BrokerConnected"
)

// EdgeDeviceStatus is what aranya knows of a device.
type EdgeDeviceStatus struct {
	// phase is a one-word summary: Pending (never enrolled), Online or Offline.
	// +optional
	Phase EdgeDevicePhase `json:"phase,omitempty" protobuf:"bytes,1,opt,name=phase,casttype=EdgeDevicePhase"`

	// conditions of the device: Enrolled, Connected, NodeReady, and BrokerConnected with the method mqtt.
	// +optional
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,2,rep,name=conditions"`

	// agentVersion is the version of the arhat agent on the device.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty" protobuf:"bytes,3,opt,name=agentVersion"`

	// nodeName is the name of the device's Node, if it has one.
	// +optional
	NodeName string `json:"nodeName,omitempty" protobuf:"bytes,4,opt,name=nodeName"`

	// device describes the machine, as its agent reported it.
	// +optional
	Device *DeviceInfo `json:"device,omitempty" protobuf:"bytes,5,opt,name=device"`

	// link is the live link, only while there is one.
	// +optional
	Link *LinkStatus `json:"link,omitempty" protobuf:"bytes,6,opt,name=link"`

	// usage is what the device uses of its cpu and memory at the moment, only while it is connected.
	// +optional
	Usage corev1.ResourceList `json:"usage,omitempty" protobuf:"bytes,7,rep,name=usage,casttype=k8s.io/api/core/v1.ResourceList,castkey=k8s.io/api/core/v1.ResourceName"`

	// traffic is what the device has counted on each of its links since its agent started, over all
	// connections, as of its last answer to a heartbeat. Only while it is connected.
	// +optional
	// +listType=map
	// +listMapKey=link
	// +listMapKey=kind
	Traffic []DeviceTraffic `json:"traffic,omitempty" protobuf:"bytes,8,rep,name=traffic"`

	// certificate is the device certificate in force. Only aranya writes it.
	// +optional
	Certificate *CertificateStatus `json:"certificate,omitempty" protobuf:"bytes,9,opt,name=certificate"`

	// lastSeen is when the device was last heard of. It is stored only when something else changes.
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty" protobuf:"bytes,10,opt,name=lastSeen"`

	// observedGeneration is the generation of the spec that this status reflects.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty" protobuf:"varint,11,opt,name=observedGeneration"`
}

// DeviceInfo describes a device's machine.
type DeviceInfo struct {
	// operatingSystem as in the label kubernetes.io/os, for example "linux".
	// +optional
	OperatingSystem string `json:"operatingSystem,omitempty" protobuf:"bytes,1,opt,name=operatingSystem"`
	// architecture as in the label kubernetes.io/arch, for example "arm64".
	// +optional
	Architecture string `json:"architecture,omitempty" protobuf:"bytes,2,opt,name=architecture"`
	// kernelVersion as reported by "uname -r".
	// +optional
	KernelVersion string `json:"kernelVersion,omitempty" protobuf:"bytes,3,opt,name=kernelVersion"`
	// osImage is the name of the operating system, from os-release.
	// +optional
	OSImage string `json:"osImage,omitempty" protobuf:"bytes,4,opt,name=osImage"`
	// machineID of the device, from /etc/machine-id.
	// +optional
	MachineID string `json:"machineID,omitempty" protobuf:"bytes,5,opt,name=machineID"`
	// bootID changes whenever the device boots.
	// +optional
	BootID string `json:"bootID,omitempty" protobuf:"bytes,6,opt,name=bootID"`
	// containerRuntimeVersion is name and version of the runtime, for example "containerd://1.6.20".
	// +optional
	ContainerRuntimeVersion string `json:"containerRuntimeVersion,omitempty" protobuf:"bytes,7,opt,name=containerRuntimeVersion"`
	// addresses of the device in its own network.
	// +optional
	// +listType=atomic
	Addresses []corev1.NodeAddress `json:"addresses,omitempty" protobuf:"bytes,8,rep,name=addresses"`
	// capacity of the device.
	// +optional
	Capacity corev1.ResourceList `json:"capacity,omitempty" protobuf:"bytes,9,rep,name=capacity,casttype=k8s.io/api/core/v1.ResourceList,castkey=k8s.io/api/core/v1.ResourceName"`
	// allocatable is the part of the capacity that pods may use.
	// +optional
	Allocatable corev1.ResourceList `json:"allocatable,omitempty" protobuf:"bytes,10,rep,name=allocatable,casttype=k8s.io/api/core/v1.ResourceList,castkey=k8s.io/api/core/v1.ResourceName"`
}

// LinkStatus describes the live link of a device.
type LinkStatus struct {
	// method is what the link runs over: "grpc", "websocket" or "mqtt".
	// +optional
	Method string `json:"method,omitempty" protobuf:"bytes,1,opt,name=method"`
	// since is when the link came up.
	// +optional
	Since metav1.Time `json:"since,omitempty" protobuf:"bytes,2,opt,name=since"`
	// roundTrip is the last measured round-trip time.
	// +optional
	RoundTrip *metav1.Duration `json:"roundTrip,omitempty" protobuf:"bytes,3,opt,name=roundTrip"`
	// bytesIn counts the bytes received from the device over this link, TLS included.
	// +optional
	BytesIn int64 `json:"bytesIn,omitempty" protobuf:"varint,4,opt,name=bytesIn"`
	// bytesOut counts the bytes sent to the device over this link, TLS included.
	// +optional
	BytesOut int64 `json:"bytesOut,omitempty" protobuf:"varint,5,opt,name=bytesOut"`
	// replica is the aranya replica that holds the link.
	// +optional
	Replica string `json:"replica,omitempty" protobuf:"bytes,6,opt,name=replica"`
	// remoteAddress is where the link comes from, as the gateway sees it.
	// +optional
	RemoteAddress string `json:"remoteAddress,omitempty" protobuf:"bytes,7,opt,name=remoteAddress"`
	// streams is the number of open exec, attach, log, port-forward and proxy streams.
	// +optional
	Streams int32 `json:"streams,omitempty" protobuf:"varint,8,opt,name=streams"`
	// traffic is what bytesIn and bytesOut were for.
	// +optional
	// +listType=map
	// +listMapKey=kind
	Traffic []KindTraffic `json:"traffic,omitempty" protobuf:"bytes,9,rep,name=traffic"`
}

// KindTraffic is what went over a link for one purpose.
type KindTraffic struct {
	// kind is what the bytes were for: "control" (heartbeats, the status of the device), "pods" (with
	// volumes, statuses and events), "exec" (which kubectl cp uses, too), "attach", "log", "portforward" (and proxy), "stats", or
	// "overhead" (what TLS and HTTP/2 add, and certificates).
	Kind string `json:"kind" protobuf:"bytes,1,opt,name=kind"`
	// bytesIn counts the bytes received from the device.
	BytesIn int64 `json:"bytesIn" protobuf:"varint,2,opt,name=bytesIn"`
	// bytesOut counts the bytes sent to the device.
	BytesOut int64 `json:"bytesOut" protobuf:"varint,3,opt,name=bytesOut"`
}

// DeviceTraffic is what a device counted on one of its links for one purpose.
type DeviceTraffic struct {
	// link is what the bytes went over: "grpc", "websocket" or "mqtt".
	Link string `json:"link" protobuf:"bytes,1,opt,name=link"`
	// kind is what the bytes were for, as in link.traffic.
	Kind string `json:"kind" protobuf:"bytes,2,opt,name=kind"`
	// bytesIn counts the bytes sent by the device.
	BytesIn int64 `json:"bytesIn" protobuf:"varint,3,opt,name=bytesIn"`
	// bytesOut counts the bytes received by the device.
	BytesOut int64 `json:"bytesOut" protobuf:"varint,4,opt,name=bytesOut"`
}

// CertificateStatus describes the device certificate in force.
type CertificateStatus struct {
	// serialNumber in hexadecimal digits.
	// +optional
	SerialNumber string `json:"serialNumber,omitempty" protobuf:"bytes,1,opt,name=serialNumber"`
	// publicKeySHA256 is the hexadecimal SHA-256 of the public key (DER, SubjectPublicKeyInfo). A
	// certificate with another key is refused: enrolling anew shuts the old key out.
	// +optional
	PublicKeySHA256 string `json:"publicKeySHA256,omitempty" protobuf:"bytes,2,opt,name=publicKeySHA256"`
	// notAfter is when the certificate expires unless it is renewed.
	// +optional
	NotAfter metav1.Time `json:"notAfter,omitempty" protobuf:"bytes,3,opt,name=notAfter"`
	// enrolledAt is when a device enrolled last. Enrolment tokens that were issued before or at that time are
	// void, used or not. Renewals of the certificate keep it.
	// +optional
	EnrolledAt *metav1.MicroTime `json:"enrolledAt,omitempty" protobuf:"bytes,4,opt,name=enrolledAt"`
}
