package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConnectivityMethod is a way for a device to reach aranya.
// +enum
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
	// +optional
	// +default="grpc"
	Method ConnectivityMethod `json:"method,omitempty" protobuf:"bytes,1,opt,name=method,casttype=ConnectivityMethod"`

	// grpcConfig configures the method "grpc". Only allowed with that method.
	// +optional
	GRPCConfig *GRPCConfig `json:"grpcConfig,omitempty" protobuf:"bytes,2,opt,name=grpcConfig"`

	// mqttConfig configures the method "mqtt". Required with that method, not allowed with another.
	// +optional
	MQTTConfig *MQTTConfig `json:"mqttConfig,omitempty" protobuf:"bytes,3,opt,name=mqttConfig"`

	// heartbeatInterval is how long the link may be silent before aranya probes the device, from 5s
	// to 1h. A link that broke without a word is noticed after about this time plus 10s. Longer is
	// cheaper on a metered link. If it is not set it goes by the link that the device comes over: 40s; over
	// MQTT, with no will of your own, 30m, because a broker tells by itself, by keepalive and will, when one
	// end is lost: at once if its connection is closed, and after one and a half times the keepalive of the
	// device, 300s by default and 45s over WebSocket, if it broke without a word. A device that was asked for
	// a session and is not heard of for 10s is probed then, over any link.
	// +optional
	HeartbeatInterval *metav1.Duration `json:"heartbeatInterval,omitempty" protobuf:"bytes,4,opt,name=heartbeatInterval"`
}

// GRPCConfig configures a device that dials aranya's gateway.
type GRPCConfig struct {
	// tlsSecretRef names a Secret of type kubernetes.io/tls in the device's namespace. Its
	// certificate is served on the shared gateway listener to clients that ask (by SNI) for one of
	// its host names. Without it the gateway's own certificate is served.
	// +optional
	TLSSecretRef *LocalSecretReference `json:"tlsSecretRef,omitempty" protobuf:"bytes,1,opt,name=tlsSecretRef"`

	// service asks for a Service named after the device, with a port named "grpc" that leads to the
	// gateway, for use as the backend of an Ingress. The name of the device must then be fit for a
	// Service: letters, digits and "-", beginning with a letter.
	// +optional
	Service *ServiceSpec `json:"service,omitempty" protobuf:"bytes,2,opt,name=service"`
}

// ServiceType is a type of Service that can lead to the gateway, with the meaning that it has there.
// +enum
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
	// type is the type of the Service: ClusterIP (the default), NodePort or LoadBalancer.
	// +optional
	// +default="ClusterIP"
	Type ServiceType `json:"type,omitempty" protobuf:"bytes,1,opt,name=type,casttype=ServiceType"`

	// annotations are put on the Service, for example for an ingress controller.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty" protobuf:"bytes,2,rep,name=annotations"`
}

// LocalSecretReference names a Secret in the namespace of the EdgeDevice. There are no references
// to other namespaces: they would let a tenant read what is not theirs.
type LocalSecretReference struct {
	// name of the Secret.
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`
}

// MQTTTransport is what carries MQTT packets.
// +enum
type MQTTTransport string

const (
	// MQTTTransportTCP carries MQTT over TCP, or over TLS if mqttConfig.tlsSecretRef is set.
	MQTTTransportTCP MQTTTransport = "tcp"
	// MQTTTransportWebSocket carries MQTT over WebSocket.
	MQTTTransportWebSocket MQTTTransport = "websocket"
)

// MQTTVersion is a version of the MQTT protocol.
// +enum
type MQTTVersion string

const (
	// MQTTVersion311 is MQTT 3.1.1.
	MQTTVersion311 MQTTVersion = "3.1.1"
)

// MQTTConfig configures a device that is reached through an MQTT broker.
type MQTTConfig struct {
	// messageNamespace is the prefix of the topics: <messageNamespace>/<namespace>/<name>/up and
	// .../down. It must be the same in the configuration of the device's agent. It has at most 512
	// bytes, must not contain the wildcards "+" and "#", not begin with "$" and not end with "/".
	// Defaults to "/aranya.arhat.dev".
	// +optional
	// +default="/aranya.arhat.dev"
	MessageNamespace string `json:"messageNamespace,omitempty" protobuf:"bytes,1,opt,name=messageNamespace"`

	// server is the broker's address as host:port, for example "broker.example.com:8883". The host is
	// a DNS name or an IP address (IPv6 in brackets).
	Server string `json:"server" protobuf:"bytes,2,opt,name=server"`

	// version of the MQTT protocol. Only "3.1.1", which is the default.
	// +optional
	// +default="3.1.1"
	Version MQTTVersion `json:"version,omitempty" protobuf:"bytes,3,opt,name=version,casttype=MQTTVersion"`

	// transport is "tcp" (the default) or "websocket".
	// +optional
	// +default="tcp"
	Transport MQTTTransport `json:"transport,omitempty" protobuf:"bytes,4,opt,name=transport,casttype=MQTTTransport"`

	// tlsSecretRef names a Secret in the device's namespace for TLS to the broker. Keys: ca.crt (CA
	// of the broker; the system's roots without it), tls.crt and tls.key (client certificate; none
	// without them).
	// +optional
	TLSSecretRef *LocalSecretReference `json:"tlsSecretRef,omitempty" protobuf:"bytes,5,opt,name=tlsSecretRef"`

	// connectPacket is what aranya's own broker client puts into its CONNECT packet.
	// +optional
	ConnectPacket MQTTConnectPacket `json:"connectPacket,omitempty" protobuf:"bytes,6,opt,name=connectPacket"`
}

// MQTTConnectPacket holds the fields of an MQTT CONNECT packet.
type MQTTConnectPacket struct {
	// cleanSession asks the broker to forget the session when the connection ends. Defaults to true:
	// the link has its own sequence numbers and starts anew after a loss.
	// +optional
	// +default=true
	CleanSession *bool `json:"cleanSession,omitempty" protobuf:"varint,1,opt,name=cleanSession"`

	// will is the message that the broker publishes when aranya's connection is lost, beside the
	// messages that the link itself uses.
	// +optional
	Will *MQTTWill `json:"will,omitempty" protobuf:"bytes,2,opt,name=will"`

	// username for the broker. Required with a password.
	// +optional
	Username string `json:"username,omitempty" protobuf:"bytes,3,opt,name=username"`

	// password names a Secret in the device's namespace whose key "password" holds the password for
	// the broker.
	// +optional
	Password *LocalSecretReference `json:"password,omitempty" protobuf:"bytes,4,opt,name=password"`

	// clientID of aranya's connection. At most 23 letters and digits are safe with every broker.
	// Chosen by aranya if empty. At most 65535 bytes.
	// +optional
	ClientID string `json:"clientID,omitempty" protobuf:"bytes,5,opt,name=clientID"`

	// keepalive is the number of seconds after which an idle connection is probed, from 0 (never) to
	// 65535. If it is not set it is 300. Over WebSocket, where it must be below the time after which a
	// proxy cuts idle connections, it is 45, also if more is set.
	// +optional
	Keepalive *int32 `json:"keepalive,omitempty" protobuf:"varint,6,opt,name=keepalive"`
}

// MQTTWill is an MQTT will message.
type MQTTWill struct {
	// topic of the message, without wildcards and not under mqttConfig.messageNamespace.
	Topic string `json:"topic" protobuf:"bytes,1,opt,name=topic"`
	// payload of the message, at most 65535 bytes.
	// +optional
	Payload string `json:"payload,omitempty" protobuf:"bytes,2,opt,name=payload"`
	// qos is the quality of service: 0, 1 or 2. Defaults to 0.
	// +optional
	QoS int32 `json:"qos,omitempty" protobuf:"varint,3,opt,name=qos"`
	// retain asks the broker to keep the message for later subscribers.
	// +optional
	Retain bool `json:"retain,omitempty" protobuf:"varint,4,opt,name=retain"`
}
