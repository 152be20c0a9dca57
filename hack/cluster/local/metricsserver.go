package local

import (
	"context"
	_ "embed" // the manifests
	"fmt"
	"strconv"
	"strings"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

//go:embed metricsserver.yaml
var metricsServerManifests string

const (
	metricsServerUser       = "system:serviceaccount:kube-system:" + ServiceMetricsServer
	metricsServerAPIService = "v1beta1.metrics.k8s.io"
)

// StartMetricsServer starts the stock metrics-server under the rights that its own manifests give it, and
// waits until kube-apiserver serves its API. It ends with the cluster, or by StopMetricsServer.
func (c *Cluster) StartMetricsServer(ctx context.Context) error {
	ids, err := c.identities()
	if err != nil {
		return err
	}
	var port int
	if err := freePorts(&port); err != nil {
		return err
	}
	cmd := c.Kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(metricsServerManifests, "@PORT@", strconv.Itoa(port)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	config := c.path("kubeconfigs", ServiceMetricsServer)
	if err := c.kubeconfig(ids, config, ServiceMetricsServer, metricsServerUser, "system:serviceaccounts", "system:serviceaccounts:kube-system"); err != nil {
		return err
	}
	if err := c.startCloud(ctx, supervisor.Service{Name: ServiceMetricsServer, Argv: []string{
		c.program(ServiceMetricsServer),
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=" + loopback, fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + ids.components.CertFile, "--tls-private-key-file=" + ids.components.KeyFile,
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
		"--kubelet-certificate-authority=" + ids.ca.CertFile,
		"--metric-resolution=10s", "--kubelet-request-timeout=9s", // the least that it accepts, and less than that
	}}); err != nil {
		return err
	}
	client, err := c.dynamicClient()
	if err != nil {
		return err
	}
	return waitService(ctx, c.Cloud(), ServiceMetricsServer, func(ctx context.Context) error {
		return apiServiceAvailable(ctx, client, metricsServerAPIService)
	})
}

// StopMetricsServer takes it away again.
func (c *Cluster) StopMetricsServer(ctx context.Context) error {
	if out, err := c.Kubectl(ctx, "delete", "--ignore-not-found", "apiservice", metricsServerAPIService).CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl delete: %w: %s", err, out)
	}
	return c.Cloud().Stop(ctx, ServiceMetricsServer)
}
