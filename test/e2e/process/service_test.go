package process_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/pki"
	"arhat.dev/aranya/test/framework/suite"
)

// TestServiceOfADevice would fail if a device's Service did not lead to the gateway, or if the gateway
// did not serve the certificate that the device names.
func TestServiceOfADevice(t *testing.T) {
	e := suite.Get(t)
	if e.Cluster.State().Network == nil {
		t.Skip("the gateway is on loopback, which no EndpointSlice may name")
	}
	dir := t.TempDir()
	authority, err := pki.LoadOrCreateAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.LoadOrIssue("devices", pki.Request{CommonName: "devices", Hosts: []string{"devices.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	name := suite.Name("entrance")
	t.Cleanup(func() {
		_, _ = e.Cluster.Kubectl(context.Background(), "-n", suite.Namespace, "delete", "secret", name, "--ignore-not-found").CombinedOutput()
	})
	e.Kubectl(t, "-n", suite.Namespace, "create", "secret", "tls", name, "--cert="+pair.CertFile, "--key="+pair.KeyFile)
	e.Apply(t, manifest(name, "{connectivity: {grpcConfig: {service: {annotations: {a: b}}, tlsSecretRef: {name: "+name+"}}}, node: {disabled: true}}"))

	address := ""
	suite.Eventually(t, 30*time.Second, "a Service with endpoints", func(ctx context.Context) error {
		svc, err := e.Kube.CoreV1().Services(suite.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if svc.Annotations["a"] != "b" || len(svc.Spec.Ports) != 1 || svc.Spec.Ports[0].Name != "grpc" {
			return fmt.Errorf("the Service is %+v", svc)
		}
		list, err := e.Kube.DiscoveryV1().EndpointSlices(suite.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d EndpointSlices", len(list.Items))
		}
		slice := list.Items[0]
		address = slice.Endpoints[0].Addresses[0] + ":" + strconv.Itoa(int(*slice.Ports[0].Port))
		return nil
	})
	suite.Eventually(t, 30*time.Second, "the certificate is served by its name", func(context.Context) error {
		ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
		if err != nil {
			return err
		}
		c, err := tls.Dial("tcp", address, &tls.Config{ServerName: "devices.example.com", RootCAs: pool(ca)})
		if err != nil {
			return err
		}
		return c.Close()
	})
	e.Kubectl(t, "-n", suite.Namespace, "delete", "edgedevice", name)
	suite.Eventually(t, 30*time.Second, "the Service goes with the device", func(ctx context.Context) error {
		_, err := e.Kube.CoreV1().Services(suite.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.New("it is there")
	})
}
