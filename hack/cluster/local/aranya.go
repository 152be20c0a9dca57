package local

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

const (
	aranyaNamespace = "aranya-system"
	aranyaService   = "aranya-apiserver"
	apiServiceName  = "v1alpha1.aranya.arhat.dev"
)

// kustomization adapts what is applied to a real cluster: aranya runs as a process beside
// kube-apiserver, which finds it through a Service that names this machine, instead of as a
// Deployment.
const kustomization = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- %[1]s
patches:
- patch: |-
    $patch: delete
    apiVersion: apps/v1
    kind: Deployment
    metadata:
      name: %[3]s
      namespace: %[2]s
- patch: |-
    $patch: delete
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: aranya-etcd
      namespace: %[2]s
- patch: |-
    $patch: delete
    apiVersion: v1
    kind: Service
    metadata:
      name: aranya-gateway
      namespace: %[2]s
- target:
    kind: Service
    name: %[3]s
    namespace: %[2]s
  patch: |-
    - op: replace
      path: /spec
      value: {type: ExternalName, externalName: localhost}
- patch: |-
    apiVersion: apiregistration.k8s.io/v1
    kind: APIService
    metadata:
      name: %[4]s
    spec:
      service:
        name: %[3]s
        namespace: %[2]s
        port: %[5]d
`

// startAranya applies the manifests, starts aranya under the rights they give, and waits until
// kube-apiserver serves its API.
func (c *Cluster) startAranya(ctx context.Context, ids *identities) error {
	if err := c.step("apply artifacts/", func() error { return c.applyManifests(ctx) }); err != nil {
		return err
	}
	// The certificate stands for the service account, with its groups and so its rights.
	user := "system:serviceaccount:" + aranyaNamespace + ":" + aranyaService
	if err := c.kubeconfig(ids, c.path("kubeconfigs", "aranya"), "aranya", user,
		"system:serviceaccounts", "system:serviceaccounts:"+aranyaNamespace); err != nil {
		return err
	}
	return c.step("start aranya-apiserver", func() error {
		if err := c.startCloud(ctx, c.aranya(ids)); err != nil {
			return err
		}
		return c.WaitAranya(ctx)
	})
}

func (c *Cluster) applyManifests(ctx context.Context) error {
	dir := c.path("manifests")
	artifacts, err := filepath.Rel(dir, filepath.Join(c.state.Source, "artifacts"))
	if err != nil {
		return err
	}
	text := fmt.Sprintf(kustomization, artifacts, aranyaNamespace, aranyaService, apiServiceName, c.state.Ports.Aranya)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	out, err := c.Kubectl(ctx, "apply", "-k", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl apply -k %s: %w: %s", dir, err, out)
	}
	return nil
}

// gatewayAddress is where devices reach the gateway.
func (c *Cluster) gatewayAddress() string {
	return net.JoinHostPort(c.nodeAddress(), strconv.Itoa(c.state.Ports.Gateway))
}

// nodeAddress is where kube-apiserver reaches the kubelet endpoint. With networks of their own for
// the devices it is an address that is not loopback, which the proxy subresource of Nodes demands.
func (c *Cluster) nodeAddress() string {
	if c.state.Network != nil {
		return c.state.Network.Gateway.String()
	}
	return loopback
}

// bindAddress is where what devices reach listens. The gateway's own address exists only while a device
// is connected to this machine.
func (c *Cluster) bindAddress() string {
	if c.state.Network != nil {
		return "0.0.0.0"
	}
	return loopback
}

func (c *Cluster) aranya(ids *identities) supervisor.Service {
	p := c.state.Ports
	bind := c.bindAddress()
	argv := []string{
		c.program("aranya-apiserver"),
		"--kubeconfig=" + c.path("kubeconfigs", "aranya"),
		"--bind-address=" + loopback, fmt.Sprintf("--secure-port=%d", p.Aranya),
		"--gateway-bind-address=" + net.JoinHostPort(bind, strconv.Itoa(p.Gateway)),
		"--gateway-advertise-address=" + c.gatewayAddress(),
		"--kubelet-bind-address=" + net.JoinHostPort(bind, strconv.Itoa(p.Kubelet)),
		"--node-address=" + c.nodeAddress(),
		"--namespace=" + aranyaNamespace,
		"--service-name=" + aranyaService,
		"--replica-name=replica-1",
		"--v=2",
	}
	if c.state.Etcd == EtcdShared {
		argv = append(argv, "--etcd-servers=https://"+hostPort(p.Etcd), "--etcd-cafile="+ids.etcd.CertFile,
			"--etcd-certfile="+ids.etcdClient.CertFile, "--etcd-keyfile="+ids.etcdClient.KeyFile)
	} else {
		argv = append(argv, "--embedded-etcd-dir="+c.path("aranya", "etcd"))
	}
	return supervisor.Service{Name: ServiceAranya, StopTimeout: 20 * time.Second, Argv: argv}
}

// WaitAranya waits until kube-apiserver finds aranya's API available.
func (c *Cluster) WaitAranya(ctx context.Context) error {
	client, err := c.dynamicClient()
	if err != nil {
		return err
	}
	return waitService(ctx, c.Cloud(), ServiceAranya, func(ctx context.Context) error {
		if err := apiServiceAvailable(ctx, client, apiServiceName); err != nil {
			return err
		}
		_, err := client.Resource(edgeDevices).Namespace(Namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}
