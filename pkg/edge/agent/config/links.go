package config

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Schemes of addresses.
const (
	SchemeTCP           = "tcp" // host:port, which is written without a scheme
	SchemeWebSocket     = "ws"
	SchemeWebSocketTLS  = "wss"
	SchemeMQTT          = "mqtt"
	SchemeMQTTTLS       = "mqtts"
	SchemeMQTTWebSocket = "mqtt+ws"
	SchemeMQTTWSTLS     = "mqtt+wss"
)

// defaultPorts of the schemes; there is none for tcp.
var defaultPorts = map[string]string{
	SchemeWebSocket: "80", SchemeWebSocketTLS: "443",
	SchemeMQTT: "1883", SchemeMQTTTLS: "8883", SchemeMQTTWebSocket: "80", SchemeMQTTWSTLS: "443",
}

// Address is where a link leads to.
type Address struct {
	Scheme string
	// HostPort has a port always.
	HostPort string
	// Path of a WebSocket, may be empty.
	Path string
}

// IsMQTT tells whether the address is that of a broker.
func (a Address) IsMQTT() bool { return strings.HasPrefix(a.Scheme, SchemeMQTT) }

// IsTLS tells whether the way to the address has a TLS of its own, beside the one that the link has.
func (a Address) IsTLS() bool {
	return a.Scheme == SchemeWebSocketTLS || a.Scheme == SchemeMQTTTLS || a.Scheme == SchemeMQTTWSTLS
}

// String is the address as it is written.
func (a Address) String() string {
	if a.Scheme == SchemeTCP {
		return a.HostPort
	}
	return a.Scheme + "://" + a.HostPort + a.Path
}

// ParseAddress reads host:port, ws[s]://host[:port][/path], mqtt[s]://host[:port] or
// mqtt+ws[s]://host[:port][/path].
func ParseAddress(s string) (Address, error) {
	const forms = "must be host:port, wss://host[:port][/path], mqtt://host[:port], mqtts://host[:port] or mqtt+wss://host[:port][/path]"
	if !strings.Contains(s, "://") {
		host, port, err := net.SplitHostPort(s)
		if err == nil && host == "" {
			err = fmt.Errorf("the host is missing")
		}
		if err == nil {
			_, err = parsePort(port)
		}
		if err != nil {
			return Address{}, fmt.Errorf("%s: %w", forms, err)
		}
		return Address{Scheme: SchemeTCP, HostPort: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("%s", forms)
	}
	port, known := defaultPorts[u.Scheme]
	switch {
	case !known:
		return Address{}, fmt.Errorf("%s, not %s://", forms, u.Scheme)
	case u.User != nil:
		return Address{}, fmt.Errorf("must not have a user name or password: they are given as mqtt.username and mqtt.passwordFile")
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		return Address{}, fmt.Errorf("%s", forms)
	case (u.Scheme == SchemeMQTT || u.Scheme == SchemeMQTTTLS) && u.Path != "":
		return Address{}, fmt.Errorf("must have no path: topics begin with mqtt.messageNamespace")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if _, err := parsePort(port); err != nil {
		return Address{}, err
	}
	return Address{Scheme: u.Scheme, HostPort: net.JoinHostPort(u.Hostname(), port), Path: u.EscapedPath()}, nil
}

// MQTT is about links through MQTT brokers.
type MQTT struct {
	// MessageNamespace is the prefix of the topics, as in the EdgeDevice's mqttConfig.
	MessageNamespace string `yaml:"messageNamespace,omitempty"`
	Username         string `yaml:"username,omitempty"`
	// PasswordFile holds the password, without anything else but a line break at the end.
	PasswordFile string `yaml:"passwordFile,omitempty"`
	// ClientID is chosen at random if empty. Two clients cannot use one at the same time.
	ClientID string `yaml:"clientID,omitempty"`
	// Keepalive is in seconds, 0 for never. Unset: 300, and 45 over WebSocket.
	Keepalive *int `yaml:"keepalive,omitempty"`
	// CleanSession false asks the broker to keep the session; the link does not need it.
	CleanSession *bool `yaml:"cleanSession,omitempty"`
	// MaxPayload of one message, as a quantity. Empty: 64Ki, and 3Ki over WebSocket, in both directions.
	MaxPayload string `yaml:"maxPayload,omitempty"`
	// CAFile holds the CAs of brokers. Empty: the system's.
	CAFile string `yaml:"caFile,omitempty"`
	// CertFile and KeyFile are a client certificate for the broker.
	CertFile string `yaml:"certFile,omitempty"`
	KeyFile  string `yaml:"keyFile,omitempty"`
}

// WebSocket is about links through HTTPS.
type WebSocket struct {
	// CAFile holds the CAs of the server that terminates HTTPS. Empty: the system's.
	CAFile string `yaml:"caFile,omitempty"`
}

// Addresses are those of Server and Links, in order. The configuration must be valid.
func (c *Configuration) Addresses() []Address {
	var all []Address
	for _, s := range append([]string{c.Server}, c.Links...) {
		if a, err := ParseAddress(s); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// maxLinks limits the list of links.
const maxLinks = 8

func (c *Configuration) validateLinks() (errs field.ErrorList) {
	server := field.NewPath("server")
	if c.Server == "" {
		errs = append(errs, field.Required(server, "the address of aranya's gateway as host:port, or another kind of link (or --server)"))
	} else if _, err := ParseAddress(c.Server); err != nil {
		errs = append(errs, field.Invalid(server, redact(c.Server), err.Error()))
	}
	links := field.NewPath("links")
	if len(c.Links) > maxLinks {
		errs = append(errs, field.TooMany(links, len(c.Links), maxLinks))
	}
	for i, s := range c.Links {
		if _, err := ParseAddress(s); err != nil {
			errs = append(errs, field.Invalid(links.Index(i), redact(s), err.Error()))
		}
	}
	errs = append(errs, c.MQTT.validate(field.NewPath("mqtt"))...)
	return append(errs, validateFile(c.WebSocket.CAFile, field.NewPath("websocket", "caFile"))...)
}

// redact keeps a password that does not belong into an address out of messages.
func redact(address string) string {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}

func (m *MQTT) validate(p *field.Path) (errs field.ErrorList) {
	ns := m.MessageNamespace
	if len(ns) > 512 || strings.ContainsAny(ns, "+#\x00") || strings.HasPrefix(ns, "$") || strings.HasSuffix(ns, "/") {
		errs = append(errs, field.Invalid(p.Child("messageNamespace"), ns, "must have at most 512 bytes, no \"+\" and \"#\", not begin with \"$\" and not end with \"/\""))
	}
	if m.PasswordFile != "" && m.Username == "" {
		errs = append(errs, field.Required(p.Child("username"), "MQTT 3.1.1 allows a password only together with a user name"))
	}
	if m.Keepalive != nil && (*m.Keepalive < 0 || *m.Keepalive > math.MaxUint16) {
		errs = append(errs, field.Invalid(p.Child("keepalive"), *m.Keepalive, "must be from 0 to 65535 seconds"))
	}
	if (m.CertFile == "") != (m.KeyFile == "") {
		errs = append(errs, field.Invalid(p.Child("certFile"), m.CertFile, "certFile and keyFile belong together"))
	}
	errs = append(errs, validateFile(m.PasswordFile, p.Child("passwordFile"))...)
	errs = append(errs, validateFile(m.CAFile, p.Child("caFile"))...)
	errs = append(errs, validateFile(m.CertFile, p.Child("certFile"))...)
	errs = append(errs, validateFile(m.KeyFile, p.Child("keyFile"))...)
	if size := validateQuantity(m.MaxPayload, p.Child("maxPayload"), 256); m.MaxPayload != "" && (len(size) > 0 || m.MaxBytes() > 1<<20) {
		errs = append(errs, field.Invalid(p.Child("maxPayload"), m.MaxPayload, "must be a quantity from 256 to 1Mi"))
	}
	return errs
}

func validateFile(value string, p *field.Path) field.ErrorList {
	if value == "" {
		return nil
	}
	return validateAbsolute(value, p)
}
