package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/websocket"
)

// linkOf is how a device reaches aranya. Those that are not the cluster's own do as most of its own.
func (c *Cluster) linkOf(name string) string {
	s := c.State()
	if d := s.device(name); d != nil && d.Link != "" {
		return d.Link
	}
	return s.Link
}

// serverAddress is where the agents are told to go.
func (c *Cluster) serverAddress(link string) string {
	switch link {
	case LinkWebSocket:
		return "wss://" + c.gatewayAddress() + websocket.Path
	case LinkMQTT:
		return "mqtts://" + c.BrokerAddress()
	default:
		return c.gatewayAddress()
	}
}

// devicePort is the one port that a device can reach.
func (c *Cluster) devicePort(link string) int {
	if link == LinkMQTT {
		return c.state.Ports.Broker
	}
	return c.state.Ports.Gateway
}

// LinkConfig is what the configuration of an agent must say of its link: for devices of the cluster's
// own, and for simulated ones. Files that it names are written into dir.
func (c *Cluster) LinkConfig(ctx context.Context, name, dir string) (map[string]any, error) {
	link := c.linkOf(name)
	config := map[string]any{"server": c.serverAddress(link)}
	switch link {
	case LinkWebSocket:
		ca, err := c.deviceCA(ctx)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "https-ca.crt")
		config["websocket"] = map[string]any{"caFile": path}
		return config, os.WriteFile(path, ca, 0o600)
	case LinkMQTT:
		password, err := c.BrokerPassword(name)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "mqtt-password")
		config["mqtt"] = map[string]any{
			"messageNamespace": MessageNamespace, "username": name, "passwordFile": path, "caFile": c.path("pki", "ca.crt"),
		}
		return config, os.WriteFile(path, []byte(password+"\n"), 0o600)
	default:
		return config, nil
	}
}

// deviceCA is the CA of the certificate that the gateway serves to HTTPS clients, too, unless it has
// another for the name that they ask for.
func (c *Cluster) deviceCA(ctx context.Context) ([]byte, error) {
	client, err := c.clientset()
	if err != nil {
		return nil, err
	}
	secret, err := client.CoreV1().Secrets(aranyaNamespace).Get(ctx, gateway.AuthoritySecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("look up the CA of the gateway: %w", err)
	}
	return secret.Data["tls.crt"], nil
}
