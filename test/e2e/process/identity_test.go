package process_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/test/framework/suite"
)

// gateway returns a client of the gateway with a device's certificate, or without one.
func gateway(t *testing.T, e *suite.Env, cert *tls.Certificate) edgeapi.EdgeClient {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // the server is what is tested
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	address := fmt.Sprintf("127.0.0.1:%d", e.Cluster.State().Ports.Gateway)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return edgeapi.NewEdgeClient(conn)
}

// newDevice creates an EdgeDevice that no agent belongs to, and a token for it.
func newDevice(t *testing.T, e *suite.Env) (name, token string) {
	t.Helper()
	name = suite.Name("rogue")
	e.Apply(t, manifest(name, "{}"))
	token, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return name, token
}

// enrol uses a token, claiming to be a certain device.
func enrol(t *testing.T, e *suite.Env, token, claim string) (*tls.Certificate, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "edge/" + claim},
		URIs:    []*url.URL{{Scheme: "urn", Opaque: "arhat.dev:edgedevice:edge:" + claim + ":1"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := gateway(t, e, nil).Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(resp.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// connect opens the control stream and exchanges Hello and Welcome.
func connect(t *testing.T, e *suite.Env, cert *tls.Certificate) (edgeapi.Edge_ConnectClient, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	call, err := gateway(t, e, cert).Connect(ctx)
	if err != nil {
		return nil, err
	}
	quantities := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"),
		corev1.ResourcePods: resource.MustParse("110")}
	facts, err := (&corev1.NodeStatus{
		Capacity: quantities, Allocatable: quantities,
		NodeInfo:   corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v1.37.0-test"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test"}},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	hello := &edgeapi.Hello{AgentVersion: "v0.0.0-test", NodeStatus: &edgeapi.NodeStatus{Status: facts}}
	if err := call.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: hello}}); err != nil {
		t.Log(err) // Recv tells why
	}
	msg, err := call.Recv()
	if err == nil && msg.GetWelcome() == nil {
		t.Fatalf("the first message is %v", msg)
	}
	return call, err
}

func wantCode(t *testing.T, what string, err error, want ...codes.Code) {
	t.Helper()
	for _, code := range want {
		if status.Code(err) == code && err != nil {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, want)
}

// A token makes the device that it was issued for, whatever the request claims, once.
func TestTokenIsOfOneDeviceAndOneUse(t *testing.T) {
	e := suite.Get(t)
	name, token := newDevice(t, e)
	unused, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrol(t, e, token, "device-2")
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.FromCertificate(cert.Leaf)
	if err != nil || got.Namespace != "edge" || got.Name != name {
		t.Errorf("the certificate is of %v, %v; want edge/%s", got, err, name)
	}
	_, err = enrol(t, e, token, name)
	wantCode(t, "second use", err, codes.Unauthenticated)
	_, err = enrol(t, e, unused, name)
	wantCode(t, "another token issued before", err, codes.Unauthenticated)

	_, other := newDevice(t, e)
	id, _, _ := strings.Cut(token, ".")
	_, rest, _ := strings.Cut(other, ".")
	_, err = enrol(t, e, id+"."+rest, name)
	wantCode(t, "another token's secret", err, codes.Unauthenticated)
	_, err = enrol(t, e, "", name)
	wantCode(t, "no token", err, codes.Unauthenticated, codes.InvalidArgument)
}

// A token is worth nothing once its EdgeDevice is deleted, even if there is a new one of that name.
func TestTokenOfADeletedDevice(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name, token := newDevice(t, e)
	e.Kubectl(t, "-n", "edge", "delete", "ed", name)
	_, err := enrol(t, e, token, name)
	wantCode(t, "deleted", err, codes.Unauthenticated)
	e.KubectlInput(t, manifest(name, "{}"), "create", "-f", "-")
	_, err = enrol(t, e, token, name)
	wantCode(t, "made anew", err, codes.Unauthenticated)
}

func TestNoConnectionWithoutCertificate(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	_, err := connect(t, e, nil)
	wantCode(t, "no certificate", err, codes.Unauthenticated)

	// One of a CA of one's own, with the name of a real device.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, err := e.Dynamic.Resource(edgeDevices).Namespace("edge").Get(t.Context(), device, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	real := identity.Device{Namespace: "edge", Name: device, UID: ed.GetUID()}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: real.String()}, URIs: []*url.URL{real.URI()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect(t, e, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	wantCode(t, "a certificate of another CA", err, codes.Unauthenticated, codes.PermissionDenied, codes.Unavailable)
}

// A device reports on its own pods only; it cannot even end another's.
func TestDeviceCannotReportOnAnothersPods(t *testing.T) {
	e := suite.Get(t)
	victim := e.RunPod(t, suite.Pod(device, "host", "sleep", "1000"))
	name, token := newDevice(t, e)
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	call, err := connect(t, e, cert)
	if err != nil {
		t.Fatal(err)
	}
	state, err := (&corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Rogue", Message: "hello from a rogue"}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	uid := string(victim.UID)
	for _, msg := range []*edgeapi.DeviceMessage{
		{Message: &edgeapi.DeviceMessage_PodStatus{PodStatus: &edgeapi.PodStatus{Uid: uid, Namespace: victim.Namespace, Name: victim.Name, Status: state}}},
		{Message: &edgeapi.DeviceMessage_PodRemoved{PodRemoved: &edgeapi.PodRemoved{Uid: uid, Namespace: victim.Namespace, Name: victim.Name, Status: state}}},
		{Message: &edgeapi.DeviceMessage_Event{Event: &edgeapi.Event{PodUid: uid, Type: "Normal", Reason: "Rogue", Message: "hello from a rogue"}}},
		// About itself it may speak. The messages are in order, so the others have been seen when this has.
		{Message: &edgeapi.DeviceMessage_Event{Event: &edgeapi.Event{Type: "Normal", Reason: "Marker", Message: "the end"}}},
	} {
		if err := call.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	suite.Eventually(t, 30*time.Second, "the device's own event is recorded", func(context.Context) error {
		if out := e.Kubectl(t, "-n", "edge", "get", "events"); !strings.Contains(out, "Marker") {
			return fmt.Errorf("events: %s", out)
		}
		return nil
	})
	suite.Never(t, 3*time.Second, "the pod of another device", func(ctx context.Context) error {
		p, err := e.Kube.CoreV1().Pods(victim.Namespace).Get(ctx, victim.Name, metav1.GetOptions{})
		if err == nil && (p.UID != victim.UID || p.Status.Phase != corev1.PodRunning || p.Status.Reason != "") {
			err = fmt.Errorf("status %+v", p.Status)
		}
		return err
	})
	if out := e.Kubectl(t, "-n", "edge", "get", "events"); strings.Contains(out, "hello from a rogue") {
		t.Errorf("events: %s", out)
	}
}

// Deleting the EdgeDevice cuts the link and shuts the certificate out, also from a new device of the
// same name.
func TestDeletedDeviceIsShutOut(t *testing.T) {
	e := suite.Get(t)
	name, token := newDevice(t, e)
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	call, err := connect(t, e, cert)
	if err != nil {
		t.Fatal(err)
	}
	e.Kubectl(t, "-n", "edge", "delete", "ed", name)
	for err == nil {
		_, err = call.Recv()
	}
	if !strings.Contains(err.Error(), "the EdgeDevice was deleted") {
		t.Errorf("the live link ended with %v", err)
	}
	wantCode(t, "the live link", err, codes.PermissionDenied) // on which an agent does not come back at once
	_, err = connect(t, e, cert)
	wantCode(t, "a new link", err, codes.PermissionDenied, codes.Unauthenticated)
	e.KubectlInput(t, manifest(name, "{}"), "create", "-f", "-")
	_, err = connect(t, e, cert)
	wantCode(t, "as a new device of the same name", err, codes.PermissionDenied, codes.Unauthenticated)
}

// Enrolling anew shuts the former key out.
func TestReenrolledDeviceShutsTheOldKeyOut(t *testing.T) {
	e := suite.Get(t)
	name, token := newDevice(t, e)
	former, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e, former); err != nil {
		t.Fatal(err)
	}
	second, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	latter, err := enrol(t, e, second, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e, latter); err != nil {
		t.Errorf("the new key: %v", err)
	}
	_, err = connect(t, e, former)
	wantCode(t, "the former key", err, codes.PermissionDenied, codes.Unauthenticated)
}
