package validation

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

const (
	// maxMQTTString is the longest string, and the longest payload of a will, that MQTT can carry.
	maxMQTTString = 65535
	// maxMessageNamespace leaves room for the levels that are appended to it.
	maxMessageNamespace = 512
)

func validateMQTT(c *aranya.MQTTConfig, path *field.Path) field.ErrorList {
	errs := validateMessageNamespace(c.MessageNamespace, path.Child("messageNamespace"))
	errs = append(errs, validateHostPort(c.Server, path.Child("server"))...)
	if c.Version != aranya.MQTTVersion311 {
		errs = append(errs, field.NotSupported(path.Child("version"), c.Version, []aranya.MQTTVersion{aranya.MQTTVersion311}))
	}
	if c.Transport != aranya.MQTTTransportTCP && c.Transport != aranya.MQTTTransportWebSocket {
		errs = append(errs, field.NotSupported(path.Child("transport"), c.Transport,
			[]aranya.MQTTTransport{aranya.MQTTTransportTCP, aranya.MQTTTransportWebSocket}))
	}
	errs = append(errs, validateSecretRef(c.TLSSecretRef, path.Child("tlsSecretRef"))...)
	return append(errs, validateConnectPacket(&c.ConnectPacket, c.MessageNamespace, path.Child("connectPacket"))...)
}

func validateMessageNamespace(topic string, path *field.Path) field.ErrorList {
	errs := validateTopic(topic, path)
	if len(topic) > maxMessageNamespace {
		errs = append(errs, field.TooLong(path, "", maxMessageNamespace))
	}
	if strings.HasSuffix(topic, "/") {
		errs = append(errs, field.Invalid(path, topic, `must not end with "/": the topics are <messageNamespace>/<namespace>/<name>/up and down`))
	}
	return errs
}

func validateConnectPacket(p *aranya.MQTTConnectPacket, messageNamespace string, path *field.Path) field.ErrorList {
	errs := validateMQTTString(p.Username, path.Child("username"))
	errs = append(errs, validateMQTTString(p.ClientID, path.Child("clientID"))...)
	errs = append(errs, validateSecretRef(p.Password, path.Child("password"))...)
	if p.Password != nil && p.Username == "" {
		errs = append(errs, field.Required(path.Child("username"), "MQTT 3.1.1 has no password without a username"))
	}
	errs = append(errs, inRange(p.Keepalive, 0, 65535, path.Child("keepalive"))...)
	if p.Will == nil {
		return errs
	}
	path = path.Child("will")
	errs = append(errs, validateTopic(p.Will.Topic, path.Child("topic"))...)
	if messageNamespace != "" && strings.HasPrefix(p.Will.Topic, messageNamespace+"/") {
		errs = append(errs, field.Invalid(path.Child("topic"), p.Will.Topic,
			"must not lie under messageNamespace, where the links of the devices are"))
	}
	if len(p.Will.Payload) > maxMQTTString {
		errs = append(errs, field.TooLong(path.Child("payload"), "", maxMQTTString))
	}
	return append(errs, inRange(&p.Will.QoS, 0, 2, path.Child("qos"))...)
}

// validateTopic checks the name of a topic that is published to.
func validateTopic(topic string, path *field.Path) field.ErrorList {
	if topic == "" {
		return field.ErrorList{field.Required(path, "a topic has at least one character")}
	}
	errs := validateMQTTString(topic, path)
	if strings.ContainsAny(topic, "+#") {
		errs = append(errs, field.Invalid(path, topic, `must not contain the wildcards "+" and "#"`))
	}
	if strings.HasPrefix(topic, "$") {
		errs = append(errs, field.Invalid(path, topic, `must not begin with "$": such topics belong to the broker`))
	}
	return errs
}

// validateMQTTString checks what MQTT demands of all strings. Empty is fine.
func validateMQTTString(s string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s) > maxMQTTString {
		errs = append(errs, field.TooLong(path, "", maxMQTTString))
	}
	if !utf8.ValidString(s) {
		return append(errs, field.Invalid(path, fmt.Sprintf("%q", s), "must be valid UTF-8"))
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		errs = append(errs, field.Invalid(path, s, "must not contain control characters"))
	}
	return errs
}
