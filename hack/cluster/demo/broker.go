package demo

import (
	"crypto/tls"
	"fmt"
	"log/slog"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"arhat.dev/aranya/hack/cluster/local"
)

// startBroker runs an MQTT broker in this process, with TLS, passwords and the ACL of docs/links.md: so
// that the tour needs nothing that is not built from this tree. Real set-ups have one of their own.
func startBroker(c *local.Cluster, devices ...string) (stop func() error, err error) {
	pair, err := c.BrokerCertificate()
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		return nil, err
	}
	ledger, err := brokerLedger(c, devices)
	if err != nil {
		return nil, err
	}
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.Hook), &auth.Options{Ledger: ledger}); err != nil {
		return nil, err
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{
		ID: "devices", Address: c.BrokerListenAddress(), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
	})); err != nil {
		return nil, fmt.Errorf("start the MQTT broker: %w", err)
	}
	if err := server.Serve(); err != nil {
		return nil, fmt.Errorf("start the MQTT broker: %w", err)
	}
	return server.Close, nil
}

// brokerLedger confines each device to its own topics, as broker.go of package local has Mosquitto do.
func brokerLedger(c *local.Cluster, devices []string) (*auth.Ledger, error) {
	const ns = local.MessageNamespace
	filters := map[string]auth.Filters{local.BrokerUser: {
		ns + "/+/+/up": auth.ReadOnly, ns + "/+/+/down": auth.WriteOnly, ns + "/status": auth.WriteOnly,
	}}
	for _, device := range devices {
		topics := ns + "/" + local.Namespace + "/" + device
		filters[device] = auth.Filters{
			auth.RString(topics + "/up"): auth.WriteOnly, auth.RString(topics + "/down"): auth.ReadOnly, ns + "/status": auth.ReadOnly,
		}
	}
	ledger := &auth.Ledger{}
	for user, allowed := range filters {
		password, err := c.BrokerPassword(user)
		if err != nil {
			return nil, err
		}
		ledger.Auth = append(ledger.Auth, auth.AuthRule{Username: auth.RString(user), Password: auth.RString(password), Allow: true})
		// What is not allowed is denied.
		allowed["#"] = auth.Deny
		ledger.ACL = append(ledger.ACL, auth.ACLRule{Username: auth.RString(user), Filters: allowed})
	}
	return ledger, nil
}
