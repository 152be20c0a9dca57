package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"arhat.dev/aranya/hack/cluster/local"
)

const devicesManifest = `apiVersion: aranya.arhat.dev/v1alpha1
kind: EdgeDevice
metadata:
  namespace: edge
  name: device-1
---
apiVersion: aranya.arhat.dev/v1alpha1
kind: EdgeDevice
metadata:
  namespace: edge
  name: device-2
spec:
  connectivity:
    method: mqtt
    mqttConfig:
      server: %[1]s
      messageNamespace: %[2]s
      tlsSecretRef: {name: %[3]s}
      connectPacket:
        username: %[4]s
        password: {name: %[5]s}
`

// helloManifest is a workload for devices: it selects them by label and tolerates their taint. The
// image "host" stands for the programs of the device itself.
const helloManifest = `apiVersion: v1
kind: ConfigMap
metadata:
  namespace: edge
  name: hello
data:
  greeting: Hello
---
apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: edge
  name: hello
spec:
  replicas: %[1]d
  selector:
    matchLabels: {app: hello}
  template:
    metadata:
      labels: {app: hello}
    spec:
      nodeSelector:
        arhat.dev/role: EdgeDevice
      tolerations:
      - key: arhat.dev/namespace
        operator: Equal
        value: edge
      topologySpreadConstraints: # one on each device
      - topologyKey: kubernetes.io/hostname
        maxSkew: 1
        whenUnsatisfiable: DoNotSchedule
        labelSelector:
          matchLabels: {app: hello}
      containers:
      - name: hello
        image: host
        command: [%[2]q, hello, --port=%[3]d]
        env:
        - name: GREETING
          valueFrom: {configMapKeyRef: {name: hello, key: greeting}}
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        ports:
        - name: http
          containerPort: %[3]d
`

// give runs all steps of the tour.
func (t *tour) give(ctx context.Context) error {
	t.dir = filepath.Join(t.cluster.Dir, "manifests", "tour")
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{t.enrol, t.deploy, t.reachPods, t.reachDevices, t.remove} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) enrol(ctx context.Context) error {
	t.say("Devices are resources of Kubernetes. Here are two: the first dials in to aranya's gateway,\n" +
		"the second is reached through an MQTT broker, which sees nothing but ciphertext.")
	manifest := fmt.Sprintf(devicesManifest, t.cluster.BrokerAddress(), local.MessageNamespace, local.BrokerTLSSecret, local.BrokerUser, local.BrokerSecret)
	if err := t.write("devices.yaml", manifest); err != nil {
		return err
	}
	if err := t.run(ctx, []string{"kubectl", "apply", "-f", "devices.yaml"}, "edgedevice.aranya.arhat.dev/device-1 created"); err != nil {
		return err
	}
	if err := t.run(ctx, []string{"kubectl", "-n", "edge", "get", "edgedevices"}, "Pending"); err != nil {
		return err
	}
	t.say("Each gets a one-time token, with which its agent enrols and dials in:\n" +
		"  arhat join --config=arhat.yaml --server=<gateway or broker> --token=<token>")
	group, groupCtx := errgroup.WithContext(ctx)
	for i, link := range []string{local.LinkGRPC, local.LinkMQTT} {
		group.Go(func() error { return t.cluster.AddDeviceOver(groupCtx, i+1, link) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := t.run(ctx, []string{"kubectl", "-n", "edge", "get", "edgedevices", "-o", "wide"}, "device-1", "device-2", "Online", "mqtt"); err != nil {
		return err
	}
	t.say("Each device that is online is also a Node.")
	return t.run(ctx, []string{"kubectl", "get", "nodes"}, "device-1", "device-2", "Ready")
}

func (t *tour) deploy(ctx context.Context) error {
	t.say("So the scheduler can place pods on them.")
	program, err := os.Executable()
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := t.write("hello.yaml", fmt.Sprintf(helloManifest, devices, program, port)); err != nil {
		return err
	}
	for _, step := range [][]string{
		{"kubectl", "apply", "-f", "hello.yaml"},
		{"kubectl", "-n", "edge", "rollout", "status", "deployment/hello", "--timeout=90s"},
	} {
		if err := t.run(ctx, step); err != nil {
			return err
		}
	}
	return t.run(ctx, []string{"kubectl", "-n", "edge", "get", "pods", "-o", "wide"}, "device-1", "device-2", "Running")
}

func (t *tour) reachPods(ctx context.Context) error {
	t.say("Stock kubectl reaches the pods, though nothing can dial the devices.")
	if err := t.run(ctx, []string{"kubectl", "-n", "edge", "logs", "deployment/hello"}, "listening"); err != nil {
		return err
	}
	if err := t.run(ctx, []string{"kubectl", "-n", "edge", "exec", "deployment/hello", "--", "sh", "-c", `echo "$GREETING from $NODE_NAME"`},
		"Hello from device-"); err != nil {
		return err
	}
	return t.portForward(ctx, []string{"kubectl", "-n", "edge", "port-forward", "deployment/hello", ":http"}, "/", "Hello from")
}

func (t *tour) reachDevices(ctx context.Context) error {
	t.say("The plugin reaches the devices themselves.")
	for _, step := range []struct {
		command []string
		want    string
	}{
		{[]string{"kubectl", "edge", "-n", "edge", "exec", "device-1", "--", "uname", "-srm"}, "Linux"},
		{[]string{"kubectl", "edge", "-n", "edge", "exec", "device-2", "--", "uname", "-n"}, ""},
		{[]string{"kubectl", "edge", "-n", "edge", "logs", "device-1", "--tail=3"}, ""},
		{[]string{"kubectl", "-n", "edge", "describe", "edgedevice", "device-1"}, "Connected"},
	} {
		if err := t.run(ctx, step.command, step.want); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) remove(ctx context.Context) error {
	t.say("What is deleted is gone from the devices; a device that is deleted is shut out.")
	for _, step := range [][]string{
		{"kubectl", "delete", "-f", "hello.yaml"},
		{"kubectl", "-n", "edge", "wait", "--for=delete", "pods", "-l", "app=hello", "--timeout=60s"},
		{"kubectl", "delete", "-f", "devices.yaml"},
		{"kubectl", "wait", "--for=delete", "node/device-1", "node/device-2", "--timeout=60s"},
	} {
		if err := t.run(ctx, step); err != nil {
			return err
		}
	}
	return t.run(ctx, []string{"kubectl", "get", "nodes,pods", "--all-namespaces"}, "No resources found")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
