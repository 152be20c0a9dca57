package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apiserver/servingcert"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

func objectMeta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// testServer is a server in this process.
type testServer struct {
	t       *testing.T
	cluster *mainCluster
	address string
	stop    context.CancelFunc
	stopped chan error
}

// serve runs a server until the end of the test, on an embedded etcd unless args say otherwise, and waits until it is
// ready.
func serve(t *testing.T, cluster *mainCluster, kubeconfig, dir string, args ...string) *testServer {
	t.Helper()
	s := run(t, cluster, kubeconfig, dir, args...)
	s.waitReady()
	return s
}

// run starts a server as serve does, and waits for nothing.
func run(t *testing.T, cluster *mainCluster, kubeconfig, dir string, args ...string) *testServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := parse(t, append(args, "--kubeconfig="+kubeconfig, "--authentication-skip-lookup", "--embedded-etcd-dir="+dir, "--node-address=127.0.0.1",
		"--gateway-bind-address=127.0.0.1:0", "--kubelet-bind-address=127.0.0.1:0", "--gateway-advertise-address=gw.example.com:443")...)
	o.Recommended.SecureServing.Listener = listener
	if err := errors.Join(o.registry.Set(), o.Complete(), o.Validate()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &testServer{t: t, cluster: cluster, address: listener.Addr().String(), stop: cancel, stopped: make(chan error, 1)}
	go func() { s.stopped <- Run(ctx, o) }()
	t.Cleanup(cancel)
	return s
}

func (s *testServer) waitReady() {
	s.t.Helper()
	var last string
	err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, 60*time.Second, true, func(context.Context) (bool, error) {
		select {
		case err := <-s.stopped:
			return false, fmt.Errorf("the server ended: %w", err)
		default:
		}
		if s.cluster.secret(servingcert.SecretName) == nil {
			return false, nil
		}
		code, body := s.get("/readyz?verbose", "")
		last = body
		return code == http.StatusOK, nil
	})
	if err != nil {
		s.t.Fatalf("not ready: %v\n%s", err, last)
	}
}

// shutdown stops the server and returns the error of Run.
func (s *testServer) shutdown() error {
	s.stop()
	select {
	case err := <-s.stopped:
		return err
	case <-time.After(60 * time.Second):
		s.t.Fatal("the server does not stop")
		return nil
	}
}

// tls trusts the server as kube-apiserver does: by the CA in the Secret and the name of the Service.
func (s *testServer) tls() *tls.Config {
	roots := x509.NewCertPool()
	if secret := s.cluster.secret(servingcert.SecretName); secret != nil {
		roots.AppendCertsFromPEM(secret.Data[corev1.ServiceAccountRootCAKey])
	}
	return &tls.Config{RootCAs: roots, ServerName: "aranya-apiserver.aranya-system.svc", MinVersion: tls.VersionTLS12}
}

// get does a GET with a token and returns the code, or 0, and the body or the error.
func (s *testServer) get(path, token string) (code int, body string) {
	transport := &http.Transport{TLSClientConfig: s.tls()}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+s.address+path, http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	data, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(data)
}

func (s *testServer) client(token string) versioned.Interface {
	s.t.Helper()
	client, err := versioned.NewForConfig(s.clientConfig(token))
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

func (s *testServer) clientConfig(token string) *restclient.Config {
	secret := s.cluster.secret(servingcert.SecretName)
	return &restclient.Config{
		Host: "https://" + s.address, BearerToken: token, QPS: -1,
		TLSClientConfig: restclient.TLSClientConfig{CAData: secret.Data[corev1.ServiceAccountRootCAKey], ServerName: s.tls().ServerName},
	}
}

func TestServer(t *testing.T) {
	dir := etcdDir(t)
	cluster, kubeconfig := newMainCluster(t)
	s := serve(t, cluster, kubeconfig, dir)

	for _, name := range []string{"etcd", "edgedevice-informer-sync", "gateway", "kubelet-endpoint", "informer-sync", "front-proxy-ca"} {
		if _, body := s.get("/readyz?verbose", ""); !strings.Contains(body, "[+]"+name+" ok") {
			t.Errorf("readyz does not ask for %s:\n%s", name, body)
		}
	}
	if _, body := s.get("/livez?verbose&exclude=etcd", ""); !strings.Contains(body, "[+]etcd excluded: ok") || strings.Count(body, "etcd") > 1 {
		t.Errorf("livez cannot be asked without etcd:\n%s", body)
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/healthz": 200, "/metrics": 403, "/apis/aranya.arhat.dev/v1alpha1/edgedevices": 403} {
		if code, body := s.get(path, ""); code != want {
			t.Errorf("GET %s without a token: %d, want %d: %s", path, code, want, body)
		}
	}
	_, metrics := s.get("/metrics", tokenUser)
	for _, want := range []string{
		"aranya_build_info{", "rest_client_requests_total{", "rest_client_request_duration_seconds_bucket{",
		"\netcd_disk_wal_fsync_duration_seconds_count ", "\netcd_disk_backend_commit_duration_seconds_bucket{", "\netcd_mvcc_db_total_size_in_bytes ",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("there is no metric %q", want)
		}
	}
	if code, _ := s.get("/version", "unknown"); code != http.StatusUnauthorized {
		t.Errorf("an unknown token got %d", code)
	}
	s.checkAPI()
	s.checkMetadataClient()
	if err := s.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}

	// The same CA and the same EdgeDevices after a restart.
	before := cluster.secret(servingcert.SecretName)
	again := serve(t, cluster, kubeconfig, dir)
	if after := cluster.secret(servingcert.SecretName); !bytes.Equal(before.Data[corev1.TLSCertKey], after.Data[corev1.TLSCertKey]) {
		t.Error("a restart made another CA")
	}
	if _, err := again.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge").Get(t.Context(), "camera-1", metav1.GetOptions{}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if err := again.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// checkMetadataClient does what controller-manager does when it empties a namespace, with the same
// client, which prefers protobuf.
func (s *testServer) checkMetadataClient() {
	t := s.t
	client, err := metadata.NewForConfig(s.clientConfig(tokenUser))
	if err != nil {
		t.Fatal(err)
	}
	devices := client.Resource(v1alpha1.SchemeGroupVersion.WithResource("edgedevices")).Namespace("doomed")
	if _, err := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("doomed").Create(t.Context(), &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("camera-1")}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := devices.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("list metadata: %v, error %v", list, err)
	}
	if err := devices.DeleteCollection(t.Context(), metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, metav1.ListOptions{}); err != nil {
		t.Errorf("delete all: %v", err)
	}
}

// checkAPI goes through the API once. What exactly it does is tested in pkg/registry.
func (s *testServer) checkAPI() {
	t := s.t
	ctx := t.Context()
	devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
	created, err := devices.Create(ctx, &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("camera-1")}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.Spec.Connectivity.Method != v1alpha1.ConnectivityGRPC {
		t.Errorf("no defaults: %+v", created.Spec)
	}
	if _, err := s.client(tokenNobody).AranyaV1alpha1().EdgeDevices("edge").Get(ctx, "camera-1", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user without rights got %v", err)
	}
	token := &v1alpha1.EnrollmentToken{}
	if err := s.client(tokenUser).AranyaV1alpha1().RESTClient().Post().Namespace("edge").Resource("edgedevices").Name("camera-1").
		SubResource("token").Body(token).Do(ctx).Into(token); err != nil {
		t.Errorf("token: %v", err)
	}
	if _, err := identity.ParseToken(token.Status.Token); err != nil || token.Status.Server != "gw.example.com:443" {
		t.Errorf("token status %+v, error %v", token.Status, err)
	}
	// Reaches the device's session, which there is none of; with unknown options it would not get there.
	err = s.client(tokenUser).AranyaV1alpha1().RESTClient().Post().Namespace("edge").Resource("edgedevices").Name("camera-1").
		SubResource("exec").Param("command", "true").Param("stdout", "true").Do(ctx).Error()
	if err == nil || apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) {
		t.Errorf("exec on a device that is away: %v", err)
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/aranya.arhat.dev/v1alpha1"} {
		if code, body := s.get(path, tokenUser); code != 200 || !strings.Contains(body, "heartbeatInterval is how long the link may be silent") {
			t.Errorf("%s: %d, without the descriptions", path, code)
		}
	}
}

func TestPortInUseIsFoundAtOnce(t *testing.T) {
	_, kubeconfig := newMainCluster(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for flag, want := range map[string]string{
		"--gateway-bind-address": "listen for devices (--gateway-bind-address)",
		"--kubelet-bind-address": "listen for kubelet calls (--kubelet-bind-address)",
	} {
		t.Run(flag, func(t *testing.T) {
			o := parse(t, "--kubeconfig="+kubeconfig, "--authentication-skip-lookup", "--embedded-etcd-dir="+etcdDir(t), "--node-address=127.0.0.1",
				"--bind-address=127.0.0.1", "--gateway-bind-address=127.0.0.1:0", "--kubelet-bind-address=127.0.0.1:0", flag+"="+taken.Addr().String())
			if o.Recommended.SecureServing.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(o.registry.Set(), o.Complete(), o.Validate()); err != nil {
				t.Fatal(err)
			}
			if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		})
	}
}

// etcdDir is a directory whose name leaves room for a socket.
func etcdDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aranya")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "etcd")
}
