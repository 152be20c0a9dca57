package local

import (
	"context"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/websocket"
)

// serverAddress is where the agents are told to go.
func (c *Cluster) serverAddress() string {
	switch c.state.Link {
	case LinkWebSocket:
		return "wss://" + c.gatewayAddress() + websocket.Path
	case LinkMQTT:
		return "mqtts://" + c.brokerAddress()
	default:
		return c.gatewayAddress()
	}
}

// devicePort is the one port that devices can reach.
func (c *Cluster) devicePort() int {
	if c.state.Link == LinkMQTT {
		return c.state.Ports.Broker
	}
	return c.state.Ports.Gateway
}

// addLink adds what an agent must know of its link to its configuration.
func (c *Cluster) addLink(ctx context.Context, d *Device, config map[string]any) error {
	switch c.state.Link {
	case LinkWebSocket:
		ca, err := c.deviceCA(ctx)
		if err != nil {
			return err
		}
		path := c.devicePath(d.Name, "https-ca.crt")
		config["websocket"] = map[string]any{"caFile": path}
		return os.WriteFile(path, ca, 0o600)
	case LinkMQTT:
		password, err := c.BrokerPassword(d.Name)
		if err != nil {
			return err
		}
		path := c.devicePath(d.Name, "mqtt-password")
		config["mqtt"] = map[string]any{
			"messageNamespace": MessageNamespace, "username": d.Name, "passwordFile": path, "caFile": c.path("pki", "ca.crt"),
		}
		return os.WriteFile(path, []byte(password+"\n"), 0o600)
	default:
		return nil
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
