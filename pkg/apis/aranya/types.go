package aranya

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDevice is a machine at the edge that dials in to aranya: behind NAT, on a metered link, or
// reachable only through a message broker. While the device runs the arhat agent and is enrolled,
// commands, logs and port-forwards reach it through the subresources of its EdgeDevice, and
// (unless spec.node.disabled is set) a Node of the same name lets the scheduler place pods on it.
type EdgeDevice struct {
	metav1.TypeMeta
	// Standard object's metadata. The name of the EdgeDevice is also the name of its Node.
	metav1.ObjectMeta

	// spec is the desired configuration of the device.
	Spec EdgeDeviceSpec

	// status is what aranya knows of the device. While the device is connected, the fields link,
	// lastSeen and device are taken from the live link on every read.
	Status EdgeDeviceStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceList is a list of EdgeDevices.
type EdgeDeviceList struct {
	metav1.TypeMeta
	// Standard list metadata.
	metav1.ListMeta

	// items is the list of EdgeDevices.
	Items []EdgeDevice
}

// EdgeDeviceSpec is the desired configuration of a device.
type EdgeDeviceSpec struct {
	// connectivity says how the device and aranya reach each other.
	Connectivity Connectivity

	// node configures the Node that represents the device in the cluster.
	Node NodeSpec

	// pod configures how pods run on the device.
	Pod PodSpec

	// host says what the cloud side may do on the device's host itself. The device's own policy
	// (arhat.yaml) can forbid more; it can never be widened from here.
	Host HostSpec
}

// ConnectivityMethod is a way for a device to reach aranya.
type ConnectivityMethod string

const (
	// ConnectivityGRPC means that the device dials aranya's gateway, directly or through an Ingress
	// or a LoadBalancer.
	ConnectivityGRPC ConnectivityMethod = "grpc"
	// ConnectivityMQTT means that the device and aranya meet at an MQTT broker.
	ConnectivityMQTT ConnectivityMethod = "mqtt"
)

// Connectivity says how the device and aranya reach each other.
type Connectivity struct {
	// method is how the device connects: "grpc" (the default) dials aranya's gateway, "mqtt" goes
	// through the broker named in mqttConfig.
	Method ConnectivityMethod

	// grpcConfig configures the method "grpc". Only allowed with that method.
	GRPCConfig *GRPCConfig

	// mqttConfig configures the method "mqtt". Required with that method, not allowed with another.
	MQTTConfig *MQTTConfig

	// heartbeatInterval is how long the link may be silent before aranya probes the device, from 5s
	// to 1h. A link that broke without a word is noticed after about this time plus 10s. Longer is
	// cheaper on a metered link. Defaults to 40s.
	HeartbeatInterval *metav1.Duration
}

// GRPCConfig configures a device that dials aranya's gateway.
type GRPCConfig struct {
	// tlsSecretRef names a Secret of type kubernetes.io/tls in the device's namespace. Its
	// certificate is served on the shared gateway listener to clients that ask (by SNI) for one of
	// its host names. Without it the gateway's own certificate is served.
	TLSSecretRef *LocalSecretReference

	// service asks for a Service named after the device, with a port named "grpc" that leads to the
	// gateway, for use as the backend of an Ingress.
	Service *ServiceSpec
}

// ServiceSpec configures the Service of a device.
type ServiceSpec struct {
	// type is the type of the Service: ClusterIP (the default), NodePort or LoadBalancer.
	Type corev1.ServiceType

	// annotations are put on the Service, for example for an ingress controller.
	Annotations map[string]string
}

// LocalSecretReference names a Secret in the namespace of the EdgeDevice. There are no references
// to other namespaces: they would let a tenant read what is not theirs.
type LocalSecretReference struct {
	// name of the Secret.
	Name string
}

// MQTTTransport is what carries MQTT packets.
type MQTTTransport string

const (
	// MQTTTransportTCP carries MQTT over TCP, or over TLS if mqttConfig.tlsSecretRef is set.
	MQTTTransportTCP MQTTTransport = "tcp"
	// MQTTTransportWebSocket carries MQTT over WebSocket.
	MQTTTransportWebSocket MQTTTransport = "websocket"
)

// MQTTVersion is a version of the MQTT protocol.
type MQTTVersion string

const (
	// MQTTVersion311 is MQTT 3.1.1.
	MQTTVersion311 MQTTVersion = "3.1.1"
)

// MQTTConfig configures a device that is reached through an MQTT broker.
type MQTTConfig struct {
	// messageNamespace is the prefix of the topics: <messageNamespace>/<namespace>/<name>/up and
	// .../down. It must be the same in the configuration of the device's agent. It must not contain
	// the wildcards "+" and "#". Defaults to "/aranya.arhat.dev".
	MessageNamespace string

	// server is the broker's address as host:port.
	Server string

	// version of the MQTT protocol. Only "3.1.1", which is the default.
	Version MQTTVersion

	// transport is "tcp" (the default) or "websocket".
	Transport MQTTTransport

	// tlsSecretRef names a Secret in the device's namespace for TLS to the broker. Keys: ca.crt (CA
	// of the broker; the system's roots without it), tls.crt and tls.key (client certificate; none
	// without them).
	TLSSecretRef *LocalSecretReference

	// connectPacket is what aranya's own broker client puts into its CONNECT packet.
	ConnectPacket MQTTConnectPacket
}

// MQTTConnectPacket holds the fields of an MQTT CONNECT packet.
type MQTTConnectPacket struct {
	// cleanSession asks the broker to forget the session when the connection ends. Defaults to true:
	// the link has its own sequence numbers and starts anew after a loss.
	CleanSession *bool

	// will is the message that the broker publishes when aranya's connection is lost, beside the
	// messages that the link itself uses.
	Will *MQTTWill

	// username for the broker.
	Username string

	// password names a Secret in the device's namespace whose key "password" holds the password for
	// the broker.
	Password *LocalSecretReference

	// clientID of aranya's connection. At most 23 letters and digits are safe with every broker.
	// Chosen by aranya if empty.
	ClientID string

	// keepalive is the number of seconds after which an idle connection is probed, from 0 (never) to
	// 65535. Defaults to 300.
	Keepalive *int32
}

// MQTTWill is an MQTT will message.
type MQTTWill struct {
	// topic of the message, without wildcards.
	Topic string
	// payload of the message, at most 64 KiB.
	Payload string
	// qos is the quality of service: 0, 1 or 2. Defaults to 0.
	QoS int32
	// retain asks the broker to keep the message for later subscribers.
	Retain bool
}

// NamespaceTaint is what the taint arhat.dev/namespace=<namespace> of a device's Node does to pods
// that do not tolerate it.
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
	Disabled bool

	// labels are put on the Node. Labels that aranya sets itself (arhat.dev/role, arhat.dev/name,
	// arhat.dev/namespace, kubernetes.io/arch, kubernetes.io/os, kubernetes.io/hostname) are not
	// allowed.
	Labels map[string]string

	// annotations are put on the Node.
	Annotations map[string]string

	// taints are put on the Node, beside the one of namespaceTaint.
	Taints []corev1.Taint

	// unschedulable keeps new pods off the device, as "kubectl cordon" does on its Node. A Node that
	// was cordoned directly stays so.
	Unschedulable bool

	// namespaceTaint is the effect of the Node's taint arhat.dev/namespace=<namespace>: NoSchedule
	// (the default), PreferNoSchedule, NoExecute, or None for no such taint.
	NamespaceTaint NamespaceTaint
}

// PodSpec configures how pods run on a device.
type PodSpec struct {
	// capacity is how many pods the device may run, from 1 to 1000. Defaults to 110.
	Capacity *int32

	// dns is what pods with dnsPolicy ClusterFirst use: a device has no route to the cluster's DNS.
	// Without it such pods use the device's own resolver.
	DNS *corev1.PodDNSConfig
}

// HostSpec says what the cloud side may do on the device's host. Everything is allowed by default
// to those whom RBAC allows the subresource.
type HostSpec struct {
	// allowExec permits commands on the host through edgedevices/exec. Defaults to true.
	AllowExec *bool

	// allowAttach permits attaching to the host's console shell through edgedevices/attach.
	// Defaults to true.
	AllowAttach *bool

	// allowLog permits reading host logs through edgedevices/log. Defaults to true.
	AllowLog *bool

	// allowPortForward permits connections to ports of the host, and of its network where the device
	// itself allows that, through edgedevices/portforward and edgedevices/proxy. Defaults to true.
	AllowPortForward *bool
}

// EdgeDevicePhase is a one-word summary of a device's state.
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
)

// EdgeDeviceStatus is what aranya knows of a device.
type EdgeDeviceStatus struct {
	// phase is a one-word summary: Pending (never enrolled), Online or Offline.
	Phase EdgeDevicePhase

	// conditions of the device: Enrolled, Connected, NodeReady.
	Conditions []metav1.Condition

	// agentVersion is the version of the arhat agent on the device.
	AgentVersion string

	// nodeName is the name of the device's Node, if it has one.
	NodeName string

	// device describes the machine, as its agent reported it.
	Device *DeviceInfo

	// link is the live link, only while there is one.
	Link *LinkStatus

	// usage is what the device uses of its cpu and memory at the moment, only while it is connected.
	Usage corev1.ResourceList

	// certificate is the device certificate in force. Only aranya writes it.
	Certificate *CertificateStatus

	// lastSeen is when the device was last heard of.
	LastSeen *metav1.Time

	// observedGeneration is the generation of the spec that this status reflects.
	ObservedGeneration int64
}

// DeviceInfo describes a device's machine.
type DeviceInfo struct {
	// operatingSystem as in the label kubernetes.io/os, for example "linux".
	OperatingSystem string
	// architecture as in the label kubernetes.io/arch, for example "arm64".
	Architecture string
	// kernelVersion as reported by "uname -r".
	KernelVersion string
	// osImage is the name of the operating system, from os-release.
	OSImage string
	// machineID of the device, from /etc/machine-id.
	MachineID string
	// bootID changes whenever the device boots.
	BootID string
	// containerRuntimeVersion is name and version of the runtime, for example "containerd://1.6.20".
	ContainerRuntimeVersion string
	// addresses of the device in its own network.
	Addresses []corev1.NodeAddress
	// capacity of the device.
	Capacity corev1.ResourceList
	// allocatable is the part of the capacity that pods may use.
	Allocatable corev1.ResourceList
}

// LinkStatus describes the live link of a device.
type LinkStatus struct {
	// method is what the link runs over: "grpc", "websocket" or "mqtt".
	Method string
	// since is when the link came up.
	Since metav1.Time
	// roundTrip is the last measured round-trip time.
	RoundTrip *metav1.Duration
	// bytesIn counts the bytes received from the device over this link, TLS included.
	BytesIn int64
	// bytesOut counts the bytes sent to the device over this link, TLS included.
	BytesOut int64
	// replica is the aranya replica that holds the link.
	Replica string
	// remoteAddress is where the link comes from, as the gateway sees it.
	RemoteAddress string
	// streams is the number of open exec, attach, log, port-forward and proxy streams.
	Streams int32
}

// CertificateStatus describes the device certificate in force.
type CertificateStatus struct {
	// serialNumber in hexadecimal digits.
	SerialNumber string
	// publicKeySHA256 is the hexadecimal SHA-256 of the public key (DER, SubjectPublicKeyInfo). A
	// certificate with another key is refused: enrolling anew shuts the old key out.
	PublicKeySHA256 string
	// notAfter is when the certificate expires unless it is renewed.
	NotAfter metav1.Time
}
