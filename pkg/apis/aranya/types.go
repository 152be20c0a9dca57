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
	metav1.ObjectMeta
	Spec   EdgeDeviceSpec
	Status EdgeDeviceStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// EdgeDeviceList is a list of EdgeDevices.
type EdgeDeviceList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []EdgeDevice
}

// EdgeDeviceSpec is the desired configuration of a device.
type EdgeDeviceSpec struct {
	Connectivity Connectivity
	Node         NodeSpec
	Pod          PodSpec
	Host         HostSpec
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
	Method            ConnectivityMethod
	GRPCConfig        *GRPCConfig
	MQTTConfig        *MQTTConfig
	HeartbeatInterval *metav1.Duration
}

// GRPCConfig configures a device that dials aranya's gateway.
type GRPCConfig struct {
	TLSSecretRef *LocalSecretReference
	Service      *ServiceSpec
}

// ServiceType is a type of Service that can lead to the gateway, with the meaning that it has there.
type ServiceType string

const (
	// ServiceTypeClusterIP is reachable inside the cluster, for example by an ingress controller.
	ServiceTypeClusterIP ServiceType = "ClusterIP"
	// ServiceTypeNodePort is also reachable on a port of every Node.
	ServiceTypeNodePort ServiceType = "NodePort"
	// ServiceTypeLoadBalancer is also reachable through a load balancer of the cloud provider.
	ServiceTypeLoadBalancer ServiceType = "LoadBalancer"
)

// ServiceSpec configures the Service of a device.
type ServiceSpec struct {
	Type        ServiceType
	Annotations map[string]string
}

// LocalSecretReference names a Secret in the namespace of the EdgeDevice. There are no references
// to other namespaces: they would let a tenant read what is not theirs.
type LocalSecretReference struct {
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
	MessageNamespace string
	Server           string
	Version          MQTTVersion
	Transport        MQTTTransport
	TLSSecretRef     *LocalSecretReference
	ConnectPacket    MQTTConnectPacket
}

// MQTTConnectPacket holds the fields of an MQTT CONNECT packet.
type MQTTConnectPacket struct {
	CleanSession *bool
	Will         *MQTTWill
	Username     string
	Password     *LocalSecretReference
	ClientID     string
	Keepalive    *int32
}

// MQTTWill is an MQTT will message.
type MQTTWill struct {
	Topic   string
	Payload string
	QoS     int32
	Retain  bool
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
	Disabled       bool
	Labels         map[string]string
	Annotations    map[string]string
	Taints         []corev1.Taint
	Unschedulable  bool
	NamespaceTaint NamespaceTaint
}

// PodSpec configures how pods run on a device.
type PodSpec struct {
	Capacity *int32
	DNS      *corev1.PodDNSConfig
}

// HostSpec says what the cloud side may do on the device's host. Everything is allowed by default
// to those whom RBAC allows the subresource.
type HostSpec struct {
	AllowExec        *bool
	AllowAttach      *bool
	AllowLog         *bool
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

// EdgeDeviceStatus is what aranya knows of a device.
type EdgeDeviceStatus struct {
	Phase              EdgeDevicePhase
	Conditions         []metav1.Condition
	AgentVersion       string
	NodeName           string
	Device             *DeviceInfo
	Link               *LinkStatus
	Usage              corev1.ResourceList
	Traffic            []DeviceTraffic
	Certificate        *CertificateStatus
	LastSeen           *metav1.Time
	ObservedGeneration int64
}

// DeviceInfo describes a device's machine.
type DeviceInfo struct {
	OperatingSystem         string
	Architecture            string
	KernelVersion           string
	OSImage                 string
	MachineID               string
	BootID                  string
	ContainerRuntimeVersion string
	Addresses               []corev1.NodeAddress
	Capacity                corev1.ResourceList
	Allocatable             corev1.ResourceList
}

// LinkStatus describes the live link of a device.
type LinkStatus struct {
	Method        string
	Since         metav1.Time
	RoundTrip     *metav1.Duration
	BytesIn       int64
	BytesOut      int64
	Replica       string
	RemoteAddress string
	Streams       int32
	Traffic       []KindTraffic
}

// KindTraffic is what went over a link for one purpose.
type KindTraffic struct {
	Kind     string
	BytesIn  int64
	BytesOut int64
}

// DeviceTraffic is what a device counted on one of its links for one purpose.
type DeviceTraffic struct {
	Link     string
	Kind     string
	BytesIn  int64
	BytesOut int64
}

// CertificateStatus describes the device certificate in force.
type CertificateStatus struct {
	SerialNumber    string
	PublicKeySHA256 string
	NotAfter        metav1.Time
	EnrolledAt      *metav1.MicroTime
}
