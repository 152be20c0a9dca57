package broker

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

// Keys of Secrets.
const (
	caKey       = "ca.crt"
	passwordKey = "password"
)

// settings tell one client from another: devices with equal settings share a client.
type settings struct {
	Server, Transport  string
	TLS                bool
	CA, Cert, Key      []byte
	Username, Password string
	ClientID           string
	Persistent         bool
	KeepAlive          int32
	Will               *aranya.MQTTWill
}

// id names settings without telling them.
func (s *settings) id() string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and bytes only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// public is id without what nobody may guess at: devices see what follows from it.
func (s *settings) public() string {
	p := *s
	p.Password, p.Key = "", nil
	return p.id()
}

// usesMQTT says whether a device is reached through a broker.
func usesMQTT(ed *aranya.EdgeDevice) bool {
	return ed.Spec.Connectivity.Method == aranya.ConnectivityMQTT && ed.Spec.Connectivity.MQTTConfig != nil
}

// references returns the Secrets that the connectivity of a device refers to.
func references(ed *aranya.EdgeDevice) sets.Set[resolve.Reference] {
	refs := sets.New[resolve.Reference]()
	config := ed.Spec.Connectivity.MQTTConfig
	for _, ref := range []*aranya.LocalSecretReference{config.TLSSecretRef, config.ConnectPacket.Password} {
		if ref != nil {
			refs.Insert(resolve.Reference{Secret: true, Namespace: ed.Namespace, Name: ref.Name})
		}
	}
	return refs
}

// secrets looks up Secrets in use. The error is resolve.ErrPending for one that was not looked up yet.
type secrets interface {
	Secret(namespace, name string) (*corev1.Secret, error)
}

// problem is something that a person has to put right.
type problem struct {
	reason  string
	message string
}

func (p *problem) Error() string { return p.message }

// keepAlive is that of the client, in seconds. Over WebSocket proxies would cut a longer one than the default, which
// earlier versions stored.
func keepAlive(config *aranya.MQTTConfig) int32 {
	usual, set := int32(mqtt.DefaultKeepAlive(string(config.Transport))/time.Second), config.ConnectPacket.Keepalive
	switch {
	case set == nil:
		return usual
	case config.Transport == aranya.MQTTTransportWebSocket:
		return min(*set, usual)
	default:
		return *set
	}
}

// resolveSettings reads what the EdgeDevice and its Secrets say. The error is a *problem if a person
// has to act.
func resolveSettings(ed *aranya.EdgeDevice, from secrets) (*settings, error) {
	config := ed.Spec.Connectivity.MQTTConfig
	packet := config.ConnectPacket
	s := &settings{
		Server: config.Server, Transport: string(config.Transport),
		Username: packet.Username, ClientID: packet.ClientID,
		Persistent: !ptr.Deref(packet.CleanSession, true),
		KeepAlive:  keepAlive(config),
		Will:       packet.Will,
	}
	if ref := config.TLSSecretRef; ref != nil {
		secret, err := lookUp(from, ed.Namespace, ref.Name, "tlsSecretRef")
		if err != nil {
			return nil, err
		}
		s.TLS = true
		s.CA, s.Cert, s.Key = secret.Data[caKey], secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	}
	if ref := packet.Password; ref != nil {
		secret, err := lookUp(from, ed.Namespace, ref.Name, "connectPacket.password")
		if err != nil {
			return nil, err
		}
		password, ok := secret.Data[passwordKey]
		if !ok {
			return nil, &problem{ReasonInvalidSecret, fmt.Sprintf(
				"Secret %s, named by spec.connectivity.mqttConfig.connectPacket.password, has no key %q", ref.Name, passwordKey)}
		}
		s.Password = string(password)
	}
	if _, err := s.tls(); err != nil {
		return nil, &problem{ReasonInvalidSecret, fmt.Sprintf(
			"Secret %s, named by spec.connectivity.mqttConfig.tlsSecretRef, cannot be used: %v", config.TLSSecretRef.Name, err)}
	}
	return s, nil
}

func lookUp(from secrets, namespace, name, field string) (*corev1.Secret, error) {
	secret, err := from.Secret(namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, &problem{ReasonSecretNotFound, fmt.Sprintf(
			"Secret %s, named by spec.connectivity.mqttConfig.%s, does not exist in namespace %s", name, field, namespace)}
	}
	return secret, err
}

// tls returns nil if the broker is to be reached without TLS.
func (s *settings) tls() (*tls.Config, error) {
	if !s.TLS {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if host, _, err := net.SplitHostPort(s.Server); err == nil {
		config.ServerName = host
	}
	if len(s.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(s.CA) {
			return nil, errors.New("its key ca.crt holds no certificate in PEM")
		}
	}
	if len(s.Cert) > 0 || len(s.Key) > 0 {
		pair, err := tls.X509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("its keys tls.crt and tls.key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// broker returns the configuration of a client. The name of the gateway tells this server from others, and the settings,
// as far as they are no secret, this client from others of the gateway, which hear the same devices.
func (s *settings) broker(gateway string) (mqtt.BrokerConfig, error) {
	config, err := s.tls()
	if err != nil {
		return mqtt.BrokerConfig{}, err
	}
	c := mqtt.BrokerConfig{
		Server: s.Server, Transport: s.Transport, TLS: config, Username: s.Username, Password: s.Password,
		ClientID: s.ClientID, PersistentSession: s.Persistent, KeepAlive: time.Duration(s.KeepAlive) * time.Second,
		Instance: gateway + "\x00" + s.public(),
	}
	if c.ClientID == "" {
		// The same after a restart, so that the broker ends what is left of the former connection. At
		// most 23 letters and digits are safe with every broker.
		sum := sha256.Sum256([]byte(gateway + "\x00" + s.id()))
		c.ClientID = "aranya" + hex.EncodeToString(sum[:8])
	}
	if s.Will != nil {
		c.Will = &mqtt.Will{Topic: s.Will.Topic, Payload: []byte(s.Will.Payload), QoS: byte(s.Will.QoS), Retain: s.Will.Retain}
	}
	return c, nil
}

// messageNamespace is the prefix of a device's topics.
func messageNamespace(ed *aranya.EdgeDevice) string {
	if ns := ed.Spec.Connectivity.MQTTConfig.MessageNamespace; ns != "" {
		return ns
	}
	return mqtt.DefaultMessageNamespace
}
