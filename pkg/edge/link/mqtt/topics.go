package mqtt

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	upSuffix   = "/up"
	downSuffix = "/down"
)

// upTopic is what a device publishes to.
func upTopic(messageNamespace, namespace, name string) string {
	return messageNamespace + "/" + namespace + "/" + name + upSuffix
}

// downTopic is what a device subscribes to.
func downTopic(messageNamespace, namespace, name string) string {
	return messageNamespace + "/" + namespace + "/" + name + downSuffix
}

// statusTopic is where servers tell all devices that they come and go.
func statusTopic(messageNamespace string) string { return messageNamespace + "/status" }

// upFilter matches the topics of all devices.
func upFilter(messageNamespace string) string { return messageNamespace + "/+/+" + upSuffix }

// splitUpTopic is the inverse of upTopic. The names are not validated.
func splitUpTopic(topic string) (messageNamespace, namespace, name string, ok bool) {
	rest, ok := strings.CutSuffix(topic, upSuffix)
	if !ok {
		return "", "", "", false
	}
	i := strings.LastIndexByte(rest, '/')
	if i <= 0 {
		return "", "", "", false
	}
	rest, name = rest[:i], rest[i+1:]
	if i = strings.LastIndexByte(rest, '/'); i <= 0 {
		return "", "", "", false
	}
	return rest[:i], rest[i+1:], name, true
}

// validateMessageNamespace refuses what cannot be the prefix of topics.
func validateMessageNamespace(s string) error {
	if s == "" || len(s) > 512 || strings.ContainsAny(s, "+#\x00") || s[0] == '$' || s[len(s)-1] == '/' {
		return fmt.Errorf("the message namespace %q cannot be used: it must have 1 to 512 bytes, no \"+\" and \"#\", "+
			"not begin with \"$\" and not end with \"/\"", s)
	}
	return nil
}

// validateDevice refuses names that no EdgeDevice can have.
func validateDevice(namespace, name string) error {
	if len(validation.IsDNS1123Label(namespace)) != 0 || len(validation.IsDNS1123Subdomain(name)) != 0 {
		return fmt.Errorf("%q in the namespace %q cannot be the name of an EdgeDevice", name, namespace)
	}
	return nil
}
