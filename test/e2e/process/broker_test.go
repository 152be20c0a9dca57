package process_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/suite"
)

// withBroker skips a test unless the devices are reached through a broker.
func withBroker(t *testing.T) *suite.Env {
	t.Helper()
	e := suite.Get(t)
	if e.Cluster.State().Link != local.LinkMQTT {
		t.Skip("the devices of this run are not reached through an MQTT broker")
	}
	return e
}

// pool holds the certificates of a file in PEM.
func pool(pem []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}

// brokerClient connects to the broker as one of its users. All that the user may read goes to messages.
func brokerClient(t *testing.T, e *suite.Env, user, filter string, messages paho.MessageHandler) paho.Client {
	t.Helper()
	address, caFile := e.Cluster.Broker()
	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	password, err := e.Cluster.BrokerPassword(user)
	if err != nil {
		t.Fatal(err)
	}
	client := paho.NewClient(paho.NewClientOptions().AddBroker("ssl://" + address).SetUsername(user).SetPassword(password).
		SetTLSConfig(&tls.Config{RootCAs: pool(ca), MinVersion: tls.VersionTLS12}).SetAutoReconnect(false))
	if token := client.Connect(); !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatalf("connect to the broker as %s: %v", user, token.Error())
	}
	t.Cleanup(func() { client.Disconnect(100) })
	if token := client.Subscribe(filter, 1, messages); !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatalf("subscribe as %s: %v", user, token.Error())
	}
	return client
}

// TestBrokerSeesNoSecret would fail if something that the broker passes on could be read there.
func TestBrokerSeesNoSecret(t *testing.T) {
	e := withBroker(t)
	var mu sync.Mutex
	var seen bytes.Buffer
	brokerClient(t, e, local.BrokerObserver, "#", func(_ paho.Client, m paho.Message) {
		mu.Lock()
		defer mu.Unlock()
		seen.Write(m.Payload())
	})
	value := "secret-" + rand.Text()
	name := suite.Name("secret")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"key": value}}
	if _, err := e.Kube.CoreV1().Secrets(suite.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.Kube.CoreV1().Secrets(suite.Namespace).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	pod := suite.Pod(device, "host", filepath.Join(os.Getenv("ARANYA_BIN"), "cluster"), "hello", "--port=18099")
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "key"},
	}}}
	created := e.RunPod(t, pod)
	// The value is on the device, and comes back over the broker.
	if out := e.Kubectl(t, "-n", suite.Namespace, "exec", created.Name, "--", "/bin/sh", "-c",
		"for i in $(seq 1000); do echo $GREETING; done"); !strings.Contains(out, value) {
		t.Fatalf("the pod does not have the Secret: %s", out)
	}
	// The observer gets all of it, too, but maybe later than kubectl.
	suite.Eventually(t, time.Minute, "the output is seen at the broker", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if seen.Len() < 1000*len(value) {
			return fmt.Errorf("only %d bytes were seen at the broker", seen.Len())
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), created.Name, name} {
		if bytes.Contains(seen.Bytes(), []byte(form)) {
			t.Errorf("the broker has seen %q", form)
		}
	}
}

// seen are the messages that a client of the broker got, in their order.
type seen struct {
	mu       sync.Mutex
	messages []paho.Message
}

func (s *seen) add(_ paho.Client, m paho.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, m)
}

// before returns all that came before a message with the payload, once that is there. To one client the broker passes
// on what it gets from one other in order: what else could have come has.
func (s *seen) before(t *testing.T, payload string) (messages []paho.Message) {
	t.Helper()
	suite.Eventually(t, time.Minute, "a message is seen at the broker", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, m := range s.messages {
			if string(m.Payload()) == payload {
				messages = slices.Clone(s.messages[:i])
				return nil
			}
		}
		return fmt.Errorf("%d others were", len(s.messages))
	})
	return messages
}

// publish has the broker take a message, which it acknowledges even if it drops it.
func publish(t *testing.T, client paho.Client, topic, payload string) {
	t.Helper()
	if token := client.Publish(topic, 1, false, payload); !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatalf("publish to %s: %v", topic, token.Error())
	}
}

// TestBrokerConfinesDevices would fail if the ACL let a device read or write what is another's.
func TestBrokerConfinesDevices(t *testing.T) {
	e := withBroker(t)
	const topics = local.MessageNamespace + "/" + local.Namespace + "/"
	var all, got seen
	brokerClient(t, e, local.BrokerObserver, "#", all.add)
	intruder := brokerClient(t, e, "device-2", local.MessageNamespace+"/#", got.add)
	// Neither aranya nor a device heeds what is no frame.
	forbidden, marker := "forbidden-"+rand.Text(), "marker-"+rand.Text()
	others := []string{topics + "device-1/down", topics + "device-1/up", topics + "device-2/down", local.MessageNamespace + "/status"}
	for _, topic := range others {
		publish(t, intruder, topic, forbidden)
	}
	publish(t, intruder, topics+"device-2/up", marker)
	for _, m := range all.before(t, marker) {
		if string(m.Payload()) == forbidden {
			t.Errorf("device-2 has written to %s", m.Topic())
		}
	}

	e.Kubectl(t, "edge", "-n", suite.Namespace, "exec", "device-1", "--", "true")
	aranya := brokerClient(t, e, local.BrokerUser, topics+"+/up", func(paho.Client, paho.Message) {})
	marker = "marker-" + rand.Text()
	publish(t, aranya, topics+"device-2/down", marker)
	for _, m := range got.before(t, marker) {
		if topic := m.Topic(); topic != topics+"device-2/down" && topic != local.MessageNamespace+"/status" {
			t.Errorf("device-2 got a message of %s", topic)
		}
	}
}

// brokerCondition returns the condition BrokerConnected of a device.
func brokerCondition(ctx context.Context, e *suite.Env, name string) (*metav1.Condition, error) {
	obj, err := e.Device(ctx, name)
	if err != nil {
		return nil, err
	}
	for i, c := range obj.Status.Conditions {
		if c.Type == v1alpha1.EdgeDeviceBrokerConnected {
			return &obj.Status.Conditions[i], nil
		}
	}
	return nil, errors.New("no condition BrokerConnected")
}

// TestBrokerRestart stops the broker during an exec: the exec ends with an error, it is told on the
// device, and all is well by itself when the broker is back.
func TestBrokerRestart(t *testing.T) {
	e := withBroker(t)
	exec := e.KubectlBackground(t, "edge", "-n", suite.Namespace, "exec", device, "--", "/bin/sh", "-c", "echo ready; exec sleep 600")
	exec.Expect(t, 30*time.Second, "^ready$")
	if err := e.Cluster.Cloud().Stop(t.Context(), local.ServiceBroker); err != nil {
		t.Fatal(err)
	}
	restarted := false
	t.Cleanup(func() {
		if !restarted {
			_ = e.Cluster.Cloud().Resume(context.Background(), local.ServiceBroker)
		}
	})
	exec.Expect(t, 60*time.Second, "(?i)error")
	suite.Eventually(t, time.Minute, "the loss of the broker is told", func(ctx context.Context) error {
		c, err := brokerCondition(ctx, e, device)
		if err != nil {
			return err
		}
		if c.Status != metav1.ConditionFalse || c.Reason != "BrokerUnavailable" || !strings.Contains(c.Message, "refused") {
			return fmt.Errorf("the condition is %+v", c)
		}
		out := e.Kubectl(t, "-n", suite.Namespace, "get", "events", "--field-selector", "reason=BrokerUnavailable,involvedObject.name="+device, "-o", "name")
		if out == "" {
			return errors.New("no event BrokerUnavailable")
		}
		return nil
	})
	if err := e.Cluster.Cloud().Resume(t.Context(), local.ServiceBroker); err != nil {
		t.Fatal(err)
	}
	restarted = true
	for _, name := range []string{"device-1", "device-2"} {
		if err := e.Cluster.WaitOnline(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	suite.Eventually(t, time.Minute, "exec works again", func(context.Context) error {
		if r := e.TryKubectl(t, "", "edge", "-n", suite.Namespace, "exec", device, "--", "echo", "back"); r.Stdout != "back\n" {
			return fmt.Errorf("%+v", r)
		}
		c, err := brokerCondition(t.Context(), e, device)
		if err == nil && c.Status != metav1.ConditionTrue {
			err = fmt.Errorf("the condition is %+v", c)
		}
		return err
	})
}

// TestAranyaRestartKeepsBroker restarts aranya: its devices come back over the connections to the broker that they have.
func TestAranyaRestartKeepsBroker(t *testing.T) {
	e := withBroker(t)
	logins := func() int {
		t.Helper()
		status, err := e.Cluster.Cloud().Status(t.Context(), local.ServiceBroker)
		if err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(status.Log)
		if err != nil {
			t.Fatal(err)
		}
		return len(regexp.MustCompile(`New client connected .* u'`+device+`'`).FindAll(log, -1))
	}
	e.Kubectl(t, "edge", "-n", suite.Namespace, "exec", device, "--", "true")
	before := logins()
	if before == 0 {
		t.Fatal("the broker's log does not tell of the device")
	}
	if err := e.Cluster.Cloud().Stop(t.Context(), local.ServiceAranya); err != nil {
		t.Fatal(err)
	}
	if err := e.Cluster.Cloud().Resume(t.Context(), local.ServiceAranya); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, time.Minute, "exec works again", func(context.Context) error {
		if r := e.TryKubectl(t, "", "edge", "-n", suite.Namespace, "exec", device, "--", "echo", "back"); r.Stdout != "back\n" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if after := logins(); after != before {
		t.Errorf("the device has connected to the broker %d times more", after-before)
	}
}

// TestBrokerPassword changes the password that aranya uses, in its Secret: it takes effect without a
// restart.
func TestBrokerPassword(t *testing.T) {
	e := withBroker(t)
	const secret = local.BrokerSecret
	right, err := e.Cluster.BrokerPassword(local.BrokerUser)
	if err != nil {
		t.Fatal(err)
	}
	set := func(password string) {
		patch, err := json.Marshal(map[string]any{"stringData": map[string]string{"password": password}})
		if err != nil {
			t.Fatal(err)
		}
		e.Kubectl(t, "-n", suite.Namespace, "patch", "secret", secret, "-p", string(patch))
	}
	defer set(right)
	set("wrong")
	suite.Eventually(t, time.Minute, "the broker's refusal is told", func(ctx context.Context) error {
		c, err := brokerCondition(ctx, e, device)
		if err == nil && (c.Status != metav1.ConditionFalse || !strings.Contains(strings.ToLower(c.Message), "not authori")) {
			err = fmt.Errorf("the condition is %+v", c)
		}
		return err
	})
	set(right)
	suite.Eventually(t, 2*time.Minute, "connected again", func(ctx context.Context) error {
		c, err := brokerCondition(ctx, e, device)
		if err == nil && c.Status != metav1.ConditionTrue {
			err = fmt.Errorf("the condition is %+v", c)
		}
		return err
	})
	for _, name := range []string{"device-1", "device-2"} {
		if err := e.Cluster.WaitOnline(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}
