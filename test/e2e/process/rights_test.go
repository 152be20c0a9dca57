package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"arhat.dev/aranya/test/framework/suite"
)

// protocols are the ways for clients to carry streams.
var protocols = []string{"SPDY", "WebSocket"}

// subresource returns the URL of a subresource of a device.
func subresource(t *testing.T, config *rest.Config, name, sub string, query url.Values) *url.URL {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	u := client.RESTClient().Get().AbsPath("/apis/aranya.arhat.dev/v1alpha1/namespaces/edge/edgedevices", name, sub).URL()
	u.RawQuery = query.Encode()
	return u
}

// stream runs an exec or attach by one protocol, with no fallback to the other.
func stream(t *testing.T, config *rest.Config, protocol string, u *url.URL, options remotecommand.StreamOptions) error {
	t.Helper()
	var executor remotecommand.Executor
	var err error
	if protocol == "SPDY" {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	} else {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

// forward forwards a free local port by one protocol until the test ends, and returns its address.
func forward(t *testing.T, config *rest.Config, protocol string, u *url.URL, port int) (string, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	var forwarder *portforward.PortForwarder
	ports := []string{fmt.Sprintf(":%d", port)}
	if protocol == "SPDY" {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			t.Fatal(err)
		}
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
		forwarder, err = portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, ports, ready, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
	} else {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(u, config)
		if err != nil {
			t.Fatal(err)
		}
		forwarder, err = portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, ports, ready, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		cancel()
		return "", err
	case <-ready:
	case <-time.After(30 * time.Second):
		cancel()
		return "", errors.New("the port-forward does not get ready")
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Logf("the port-forward ended with %v", err)
		}
	})
	local, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", local[0].Local), nil
}

// user returns the client configuration of a user who has rules in the namespace edge and no others.
func user(t *testing.T, e *suite.Env, rules string) *rest.Config {
	t.Helper()
	return userWith(t, e, "Role", rules)
}

// clusterUser returns the client configuration of a user who has rules in the whole cluster.
func clusterUser(t *testing.T, e *suite.Env, rules string) *rest.Config {
	t.Helper()
	return userWith(t, e, "ClusterRole", rules)
}

func userWith(t *testing.T, e *suite.Env, kind, rules string) *rest.Config {
	t.Helper()
	name := suite.Name("user")
	path, err := e.Cluster.UserKubeconfig(name)
	if err != nil {
		t.Fatal(err)
	}
	metadata := "{namespace: edge, name: " + name + "}"
	if kind == "ClusterRole" {
		metadata = "{name: " + name + "}"
	}
	e.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: %[1]s
metadata: %[2]s
rules: [%[4]s]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: %[1]sBinding
metadata: %[2]s
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: %[1]s, name: %[3]s}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[3]s}]
`, kind, metadata, name, rules))
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// A WebSocket client starts with GET: that alone must not let a user in who may only get.
func TestGetIsNotEnough(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	for who, rules := range map[string]string{
		"get on the resource":     "{apiGroups: [aranya.arhat.dev], resources: [edgedevices], verbs: [get, list]}",
		"get on the subresources": "{apiGroups: [aranya.arhat.dev], resources: [edgedevices/exec, edgedevices/attach, edgedevices/portforward], verbs: [get]}",
	} {
		t.Run(who, func(t *testing.T) {
			config := user(t, e, rules)
			for _, protocol := range protocols {
				var out bytes.Buffer
				exec := subresource(t, config, device, "exec", url.Values{"command": {"id"}, "stdout": {"true"}})
				forbidden(t, protocol+" exec", stream(t, config, protocol, exec, remotecommand.StreamOptions{Stdout: &out}))
				attach := subresource(t, config, device, "attach", url.Values{"stdin": {"true"}, "stdout": {"true"}})
				forbidden(t, protocol+" attach", stream(t, config, protocol, attach,
					remotecommand.StreamOptions{Stdin: strings.NewReader("id\nexit\n"), Stdout: &out}))
				_, err := forward(t, config, protocol, subresource(t, config, device, "portforward", url.Values{"ports": {"80"}}), 80)
				forbidden(t, protocol+" portforward", err)
				if out.Len() != 0 {
					t.Errorf("%s: output %q", protocol, out.String())
				}
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			err = client.RESTClient().Get().RequestURI(subresource(t, config, device, "log", nil).RequestURI()).Do(t.Context()).Error()
			forbidden(t, "log", err)
		})
	}
}

func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(strings.ToLower(err.Error()), "forbidden") {
		t.Errorf("%s: %v, want forbidden", what, err)
	}
}
