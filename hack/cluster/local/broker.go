package local

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/pki"
	"arhat.dev/aranya/hack/cluster/supervisor"
)

// What the EdgeDevices say about the broker.
const (
	MessageNamespace = "/aranya.arhat.dev"
	BrokerUser       = "aranya"
	// BrokerObserver is a user of the broker who may read all that passes through it.
	BrokerObserver = "observer"
	// BrokerTLSSecret and BrokerSecret hold the broker's CA and aranya's password.
	BrokerTLSSecret = "mqtt-broker-ca"
	BrokerSecret    = "mqtt-broker-password"
)

// mosquitto is where Debian puts it.
const mosquitto = "/usr/sbin/mosquitto"

// brokerConfig has the broker answer at once instead of waiting for more to send, which the link needs
// to be quick, and send aranya what devices have to say without waiting for each acknowledgement.
const brokerConfig = `listener %[1]d %[2]s
cafile %[3]s
certfile %[4]s
keyfile %[5]s
allow_anonymous false
password_file %[6]s
acl_file %[7]s
set_tcp_nodelay true
max_inflight_messages 1000
max_queued_messages 10000
persistence false
sys_interval 1
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
log_type subscribe
connection_messages true
`

// brokerACL confines each device to its own topics: the user name of a device is the EdgeDevice's.
const brokerACL = `user ` + BrokerUser + `
topic read ` + MessageNamespace + `/+/+/up
topic write ` + MessageNamespace + `/+/+/down
topic write ` + MessageNamespace + `/status

user ` + BrokerObserver + `
topic read #

pattern write ` + MessageNamespace + `/` + Namespace + `/%u/up
pattern read ` + MessageNamespace + `/` + Namespace + `/%u/down
pattern read ` + MessageNamespace + `/status
`

// startBroker starts a Mosquitto of the cluster's own, with TLS, passwords and an ACL.
func (c *Cluster) startBroker(ctx context.Context, ids *identities) error {
	dir := c.path("broker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	pair, err := c.BrokerCertificate()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(brokerConfig, c.state.Ports.Broker, c.bindAddress(), ids.ca.CertFile, pair.CertFile, pair.KeyFile,
		filepath.Join(dir, "passwords"), filepath.Join(dir, "acl"))
	if isRoot() {
		text += "user root\n" // the directory is root's alone
	}
	for name, content := range map[string]string{"mosquitto.conf": text, "acl": brokerACL, "passwords": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := c.writePasswords(); err != nil {
		return err
	}
	return c.step("start the MQTT broker", func() error {
		if err := c.startCloud(ctx, supervisor.Service{Name: ServiceBroker, Argv: []string{mosquitto, "-c", filepath.Join(dir, "mosquitto.conf")}}); err != nil {
			return err
		}
		return waitService(ctx, c.Cloud(), ServiceBroker, func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostPort(c.state.Ports.Broker))
			if err != nil {
				return err
			}
			return conn.Close()
		})
	})
}

// BrokerCertificate is what a broker of the cluster shows.
func (c *Cluster) BrokerCertificate() (pki.Pair, error) {
	ids, err := c.identities()
	if err != nil {
		return pki.Pair{}, err
	}
	return ids.ca.LoadOrIssue("mqtt-broker", pki.Request{CommonName: "mqtt-broker", Hosts: []string{"localhost", loopback, c.nodeAddress()}})
}

// BrokerListenAddress is where a broker of the cluster listens.
func (c *Cluster) BrokerListenAddress() string {
	return net.JoinHostPort(c.bindAddress(), strconv.Itoa(c.state.Ports.Broker))
}

// BrokerAddress is where aranya and the devices find the broker.
func (c *Cluster) BrokerAddress() string {
	return net.JoinHostPort(c.nodeAddress(), strconv.Itoa(c.state.Ports.Broker))
}

// Broker says where the MQTT broker is and which file holds the CA of its certificate.
func (c *Cluster) Broker() (address, caFile string) {
	return hostPort(c.state.Ports.Broker), c.path("pki", "ca.crt")
}

// BrokerPassword is the password of a user of the broker.
func (c *Cluster) BrokerPassword(user string) (string, error) {
	path := c.path("broker", "secret")
	secret, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		secret = []byte(rand.Text())
		err = os.WriteFile(path, secret, 0o600)
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(string(secret) + user))
	return hex.EncodeToString(sum[:16]), nil
}

// writePasswords tells the broker the passwords of aranya and of all devices that there are.
func (c *Cluster) writePasswords() error {
	users := []string{BrokerUser, BrokerObserver}
	state := c.State()
	for _, d := range state.Devices {
		users = append(users, d.Name)
	}
	users = append(users, state.Guests...)
	var text strings.Builder
	for _, user := range users {
		password, err := c.BrokerPassword(user)
		if err != nil {
			return err
		}
		line, err := hashPassword(user, password)
		if err != nil {
			return err
		}
		text.WriteString(line)
	}
	path := c.path("broker", "passwords")
	if err := os.WriteFile(path+".tmp", []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// hashPassword makes a line of Mosquitto's password file: PBKDF2 with SHA-512. The passwords are random,
// so that few iterations do.
func hashPassword(user, password string) (string, error) {
	const iterations = 101
	salt := make([]byte, 12)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	hash, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil {
		return "", err
	}
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s:$7$%d$%s$%s\n", user, iterations, encode(salt), encode(hash)), nil
}

// AdmitGuests has the broker, if there is one, know devices that are not the cluster's own.
func (c *Cluster) AdmitGuests(ctx context.Context, names ...string) error {
	if c.state.Link != LinkMQTT {
		return nil
	}
	if err := c.update(func(s *State) { s.Guests = append(s.Guests, names...) }); err != nil {
		return err
	}
	return c.admitToBroker(ctx)
}

// admitToBroker has the broker know a new device.
func (c *Cluster) admitToBroker(ctx context.Context) error {
	c.brokerMu.Lock()
	defer c.brokerMu.Unlock()
	if err := c.writePasswords(); err != nil {
		return err
	}
	return c.Cloud().Signal(ctx, ServiceBroker, syscall.SIGHUP)
}

// BrokerSecrets creates the Secrets that the EdgeDevices refer to.
func (c *Cluster) BrokerSecrets(ctx context.Context) error {
	client, err := c.clientset()
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	password, err := c.BrokerPassword(BrokerUser)
	if err != nil {
		return err
	}
	for name, data := range map[string]map[string][]byte{
		BrokerTLSSecret: {"ca.crt": ca},
		BrokerSecret:    {"password": []byte(password)},
	} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
		if _, err := client.CoreV1().Secrets(Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// Connectivity is spec.connectivity of the EdgeDevices.
func (c *Cluster) Connectivity() map[string]any { return c.connectivity(c.state.Link) }

func (c *Cluster) connectivity(link string) map[string]any {
	if link != LinkMQTT {
		return map[string]any{"method": "grpc"}
	}
	return map[string]any{"method": "mqtt", "mqttConfig": map[string]any{
		"server":           c.BrokerAddress(),
		"messageNamespace": MessageNamespace,
		"tlsSecretRef":     map[string]any{"name": BrokerTLSSecret},
		"connectPacket": map[string]any{
			"username": BrokerUser,
			"password": map[string]any{"name": BrokerSecret},
		},
	}}
}
