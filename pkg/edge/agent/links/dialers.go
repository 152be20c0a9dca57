package links

import (
	"context"
	"fmt"
	"strings"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
	"arhat.dev/aranya/pkg/edge/link/websocket"
)

// maxFile limits files with passwords, keys and CAs, in bytes.
const maxFile = 1 << 20

// checker is a dialer that needs files.
type checker interface {
	// check reads them, as for an attempt to connect.
	check() error
}

// mqttDialer dials by an MQTT broker, and may keep the connection to it.
type mqttDialer struct {
	config  *config.MQTT
	address config.Address
	device  identity.Device
	tls     clientTLS
	keeper  mqtt.Keeper
}

// Dial implements link.Dialer.
func (m *mqttDialer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	broker, err := brokerConfig(m.config, m.address, &m.tls)
	if err != nil {
		return nil, err
	}
	d := mqtt.Dialer{
		Broker: broker, MessageNamespace: m.config.MessageNamespace, Namespace: m.device.Namespace, Name: m.device.Name,
		Keeper: &m.keeper,
	}
	return d.Dial(ctx, address)
}

func (m *mqttDialer) check() error {
	_, err := brokerConfig(m.config, m.address, &m.tls)
	return err
}

// Close implements io.Closer.
func (m *mqttDialer) Close() error { return m.keeper.Close() }

// newDialer returns the dialer of one address.
func newDialer(cfg *config.Configuration, a config.Address, device identity.Device) link.Dialer {
	switch {
	case a.IsMQTT():
		m := &cfg.MQTT
		return &mqttDialer{config: m, address: a, device: device, tls: clientTLS{caFile: m.CAFile, certFile: m.CertFile, keyFile: m.KeyFile}}
	case a.Scheme == config.SchemeTCP:
		return link.TCP{}
	default:
		return &webSocketDialer{tls: clientTLS{caFile: cfg.WebSocket.CAFile}}
	}
}

// webSocketDialer dials through HTTPS.
type webSocketDialer struct{ tls clientTLS }

// Dial implements link.Dialer.
func (w *webSocketDialer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	config, err := w.tls.config()
	if err != nil {
		return nil, err
	}
	return websocket.Dialer{TLS: config}.Dial(ctx, address)
}

func (w *webSocketDialer) check() error {
	_, err := w.tls.config()
	return err
}

// brokerConfig reads what the configuration names.
func brokerConfig(m *config.MQTT, a config.Address, files *clientTLS) (mqtt.BrokerConfig, error) {
	c := mqtt.BrokerConfig{
		Server: a.HostPort, Transport: mqtt.TransportTCP, Path: a.Path,
		Username: m.Username, ClientID: m.ClientID, PersistentSession: !*m.CleanSession,
		MaxPayload: int(m.MaxBytes()),
	}
	if a.Scheme == config.SchemeMQTTWebSocket || a.Scheme == config.SchemeMQTTWSTLS {
		c.Transport = mqtt.TransportWebSocket
	}
	c.KeepAlive = mqtt.DefaultKeepAlive(c.Transport)
	if m.Keepalive != nil {
		c.KeepAlive = time.Duration(*m.Keepalive) * time.Second
	}
	var err error
	if m.PasswordFile != "" {
		password, err := diskfile.Read(m.PasswordFile, maxFile)
		if err != nil {
			return c, fmt.Errorf("the password for the MQTT broker: %w", err)
		}
		c.Password = strings.TrimRight(string(password), "\r\n")
	}
	if a.IsTLS() {
		c.TLS, err = files.config()
	}
	return c, err
}
