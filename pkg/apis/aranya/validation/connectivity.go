package validation

import (
	"net"
	"strconv"
	"strings"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// The range of spec.connectivity.heartbeatInterval.
const (
	minHeartbeatInterval = 5 * time.Second
	maxHeartbeatInterval = time.Hour
)

func validateConnectivity(c *aranya.Connectivity, name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	grpcPath, mqttPath := path.Child("grpcConfig"), path.Child("mqttConfig")
	switch c.Method {
	case aranya.ConnectivityGRPC:
		if c.MQTTConfig != nil {
			errs = append(errs, field.Forbidden(mqttPath, `only used by the method "mqtt": remove it, or set method to "mqtt"`))
		}
	case aranya.ConnectivityMQTT:
		if c.GRPCConfig != nil {
			errs = append(errs, field.Forbidden(grpcPath, `only used by the method "grpc": remove it, or set method to "grpc"`))
		}
		if c.MQTTConfig == nil {
			errs = append(errs, field.Required(mqttPath, `the method "mqtt" needs at least mqttConfig.server, the broker's host:port`))
		}
	case "":
		errs = append(errs, field.Required(path.Child("method"), `must be "grpc" or "mqtt"`))
	default:
		errs = append(errs, field.NotSupported(path.Child("method"), c.Method,
			[]aranya.ConnectivityMethod{aranya.ConnectivityGRPC, aranya.ConnectivityMQTT}))
	}
	if c.GRPCConfig != nil {
		errs = append(errs, validateGRPC(c.GRPCConfig, name, grpcPath)...)
	}
	if c.MQTTConfig != nil {
		errs = append(errs, validateMQTT(c.MQTTConfig, mqttPath)...)
	}
	return append(errs, validateHeartbeat(c.HeartbeatInterval, path.Child("heartbeatInterval"))...)
}

func validateHeartbeat(interval *metav1.Duration, path *field.Path) field.ErrorList {
	if interval == nil || (interval.Duration >= minHeartbeatInterval && interval.Duration <= maxHeartbeatInterval) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, interval.Duration.String(), "must be from 5s to 1h")}
}

func validateGRPC(c *aranya.GRPCConfig, name string, path *field.Path) field.ErrorList {
	errs := validateSecretRef(c.TLSSecretRef, path.Child("tlsSecretRef"))
	if c.Service == nil {
		return errs
	}
	path = path.Child("service")
	switch c.Service.Type {
	case aranya.ServiceTypeClusterIP, aranya.ServiceTypeNodePort, aranya.ServiceTypeLoadBalancer:
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), c.Service.Type,
			[]aranya.ServiceType{aranya.ServiceTypeClusterIP, aranya.ServiceTypeNodePort, aranya.ServiceTypeLoadBalancer}))
	}
	errs = append(errs, apivalidation.ValidateAnnotations(c.Service.Annotations, path.Child("annotations"))...)
	// A generated name is not known before the checks; it consists of the prefix and letters and digits.
	if msgs := validation.IsDNS1035Label(name); name != "" && len(msgs) > 0 {
		errs = append(errs, field.Forbidden(path, "the Service is named after the EdgeDevice, whose name is not fit for "+
			"that ("+strings.Join(msgs, "; ")+"): remove the service, or choose another name for the EdgeDevice"))
	}
	return errs
}

// validateHostPort checks the address of a server.
func validateHostPort(address string, path *field.Path) field.ErrorList {
	if address == "" {
		return field.ErrorList{field.Required(path, `must be host:port, for example "broker.example.com:8883"`)}
	}
	bad := func(msg string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, address, msg)}
	}
	if scheme, rest, ok := strings.Cut(address, "://"); ok {
		return bad("must be host:port without " + strconv.Quote(scheme+"://") + ", as in " + strconv.Quote(rest) +
			": transport and tlsSecretRef say what is spoken")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return bad(`must be host:port, for example "broker.example.com:8883", or "[2001:db8::1]:8883" for an IPv6 address`)
	}
	var errs field.ErrorList
	if !isHost(host) {
		errs = append(errs, bad("the part before the port must be a DNS name or an IP address")...)
	}
	if _, err := netutils.ParsePort(port, false); err != nil {
		errs = append(errs, bad("the port must be a number from 1 to 65535")...)
	}
	return errs
}

// isHost tells whether something can be the host of an address: an IP address or a DNS name, in which
// case and a final dot do not matter.
func isHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	return len(validation.IsDNS1123SubdomainWithUnderscore(name)) == 0
}
