package local

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

const (
	aranyaNamespace = "aranya-system"
	aranyaService   = "aranya-apiserver"
	apiServiceName  = "v1alpha1.aranya.arhat.dev"
	// aranyaTokenTTL is longer than a cluster is up. It gets another token when it is started again.
	aranyaTokenTTL = 30 * 24 * time.Hour
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
	if err := c.aranyaKubeconfig(ctx, ids); err != nil {
		return err
	}
	return c.step("start aranya-apiserver", func() error {
		if err := c.startCloud(ctx, c.aranya(ids)); err != nil {
			return err
		}
		return c.WaitAranya(ctx)
	})
}

// aranyaKubeconfig has aranya come as its service account, by a token as a pod does.
func (c *Cluster) aranyaKubeconfig(ctx context.Context, ids *identities) error {
	client, err := c.clientset()
	if err != nil {
		return err
	}
	token, err := client.CoreV1().ServiceAccounts(aranyaNamespace).CreateToken(ctx, aranyaService, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(aranyaTokenTTL / time.Second))},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of the service account %s/%s: %w", aranyaNamespace, aranyaService, err)
	}
	return c.writeKubeconfig(ids, c.path("kubeconfigs", "aranya"), aranyaService, &clientcmdapi.AuthInfo{Token: token.Status.Token})
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

// Direct returns a user's configuration for aranya itself, past kube-apiserver.
func (c *Cluster) Direct(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + hostPort(c.state.Ports.Aranya)
	// Its certificate is for the name of its Service.
	config.CAData, config.CAFile, config.Insecure = nil, "", true
	return config
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
