package validation

import (
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// withWill gives a device's broker connection a will.
func withWill(will aranya.MQTTWill) func(*aranya.EdgeDevice) {
	return withMQTT(func(c *aranya.MQTTConfig) { c.ConnectPacket.Will = &will })
}

func TestValidateMQTT(t *testing.T) {
	long := strings.Repeat("x", maxMQTTString+1)
	runSpecCases(t, []specCase{
		{name: "mqtt", change: withMQTT(func(*aranya.MQTTConfig) {})},
		{name: "IPv4 broker", change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "192.0.2.1:1883" })},
		{name: "IPv6 broker", change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "[2001:db8::1]:1883" })},
		{name: "broker in capitals", change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "Broker.Example.COM.:1883" })},
		{
			name:   "no broker",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "" }),
			want:   []string{"Required|spec.connectivity.mqttConfig.server|host:port"},
		},
		{
			name:   "broker without port",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "broker" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|must be host:port"},
		},
		{
			name:   "broker with scheme",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "tcp://broker:1883" }),
			want:   []string{`Invalid|spec.connectivity.mqttConfig.server|as in "broker:1883"`},
		},
		{
			name:   "IPv6 broker without brackets",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "2001:db8::1:1883" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|[2001:db8::1]:8883"},
		},
		{
			name:   "broker without host",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = ":1883" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|DNS name or an IP address"},
		},
		{
			name:   "broker with a path",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "broker/mqtt:80" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|DNS name or an IP address"},
		},
		{
			name:   "broker with port 0",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "broker:0" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|1 to 65535"},
		},
		{
			name:   "broker with port 65536",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "broker:65536" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|1 to 65535"},
		},
		{
			name:   "broker with a named port",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Server = "broker:mqtt" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.server|1 to 65535"},
		},
		{
			name:   "MQTT 5",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Version = "5" }),
			want:   []string{`NotSupported|spec.connectivity.mqttConfig.version|"3.1.1"`},
		},
		{
			name:   "transport",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.Transport = "udp" }),
			want:   []string{`NotSupported|spec.connectivity.mqttConfig.transport|"tcp", "websocket"`},
		},
		{
			name:   "broker's Secret",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.TLSSecretRef = &aranya.LocalSecretReference{Name: "A"} }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.tlsSecretRef.name|"},
		},
		{
			name:   "no messageNamespace",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "" }),
			want:   []string{"Required|spec.connectivity.mqttConfig.messageNamespace|"},
		},
		{
			name:   "wildcard +",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "/a/+" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.messageNamespace|wildcards"},
		},
		{
			name:   "wildcard #",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "#" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.messageNamespace|wildcards"},
		},
		{
			name:   "topic of the broker",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "$SYS/a" }),
			want:   []string{`Invalid|spec.connectivity.mqttConfig.messageNamespace|must not begin with "$"`},
		},
		{
			name:   "final slash",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "/a/" }),
			want:   []string{`Invalid|spec.connectivity.mqttConfig.messageNamespace|must not end with "/"`},
		},
		{
			name:   "long messageNamespace",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = long[:513] }),
			want:   []string{"TooLong|spec.connectivity.mqttConfig.messageNamespace|512 bytes"},
		},
		{
			name:   "control character in a topic",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "a\x00b" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.messageNamespace|control characters"},
		},
		{
			name:   "topic that is not UTF-8",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.MessageNamespace = "a\xff" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.messageNamespace|UTF-8"},
		},

		{
			name: "connectPacket in full",
			change: withMQTT(func(c *aranya.MQTTConfig) {
				c.ConnectPacket = aranya.MQTTConnectPacket{
					CleanSession: ptr.To(false), ClientID: "aranya", Username: "u", Keepalive: ptr.To[int32](65535),
					Password: &aranya.LocalSecretReference{Name: "broker"},
					Will:     &aranya.MQTTWill{Topic: "gone", Payload: long[1:], QoS: 2, Retain: true},
				}
			}),
		},
		{
			name: "password without username",
			change: withMQTT(func(c *aranya.MQTTConfig) {
				c.ConnectPacket.Password = &aranya.LocalSecretReference{Name: "broker"}
			}),
			want: []string{"Required|spec.connectivity.mqttConfig.connectPacket.username|no password without a username"},
		},
		{
			name: "password's Secret without a name",
			change: withMQTT(func(c *aranya.MQTTConfig) {
				c.ConnectPacket.Username, c.ConnectPacket.Password = "u", &aranya.LocalSecretReference{}
			}),
			want: []string{"Required|spec.connectivity.mqttConfig.connectPacket.password.name|"},
		},
		{
			name:   "username",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.ConnectPacket.Username = "a\n" }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.username|control characters"},
		},
		{
			name:   "long clientID",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.ConnectPacket.ClientID = long }),
			want:   []string{"TooLong|spec.connectivity.mqttConfig.connectPacket.clientID|65535 bytes"},
		},
		{
			name:   "negative keepalive",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.ConnectPacket.Keepalive = ptr.To[int32](-1) }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.keepalive|between 0 and 65535"},
		},
		{
			name:   "long keepalive",
			change: withMQTT(func(c *aranya.MQTTConfig) { c.ConnectPacket.Keepalive = ptr.To[int32](65536) }),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.keepalive|between 0 and 65535"},
		},
		{
			name:   "will without topic",
			change: withWill(aranya.MQTTWill{}),
			want:   []string{"Required|spec.connectivity.mqttConfig.connectPacket.will.topic|"},
		},
		{
			name:   "will with wildcard",
			change: withWill(aranya.MQTTWill{Topic: "a/#"}),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.will.topic|wildcards"},
		},
		{
			name:   "will among the links",
			change: withWill(aranya.MQTTWill{Topic: "/aranya.arhat.dev/edge/device-2/down"}),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.will.topic|under messageNamespace"},
		},
		{
			name:   "will with a long payload",
			change: withWill(aranya.MQTTWill{Topic: "a", Payload: long}),
			want:   []string{"TooLong|spec.connectivity.mqttConfig.connectPacket.will.payload|65535 bytes"},
		},
		{
			name:   "will with qos 3",
			change: withWill(aranya.MQTTWill{Topic: "a", QoS: 3}),
			want:   []string{"Invalid|spec.connectivity.mqttConfig.connectPacket.will.qos|between 0 and 2"},
		},
	})
}
