package kubeletcert

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	certutil "k8s.io/client-go/util/cert"

	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var address = net.IPv4(192, 0, 2, 7)

// signer stands for the cluster: it names requests, and signs those that are approved.
type signer struct {
	t    *testing.T
	kube *fake.Clientset
	ca   *x509.Certificate
	key  crypto.Signer

	approvalErr error
	watched     chan struct{} // closed when somebody watches requests
	requests    chan *certificatesv1.CertificateSigningRequest
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "cluster"}, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{t: t, kube: fake.NewClientset(), ca: ca, key: key, requests: make(chan *certificatesv1.CertificateSigningRequest, 16), watched: make(chan struct{})}
	var once sync.Once
	s.kube.PrependWatchReactor("certificatesigningrequests", func(a k8stesting.Action) (bool, watch.Interface, error) {
		w, err := s.kube.Tracker().Watch(a.GetResource(), "")
		once.Do(func() { close(s.watched) })
		return true, w, err
	})
	s.kube.PrependReactor("create", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
		csr := a.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
		csr.Name, csr.UID = "csr-1", "1"
		s.requests <- csr.DeepCopy()
		return true, csr, s.kube.Tracker().Create(a.GetResource(), csr, "")
	})
	s.kube.PrependReactor("update", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "approval" {
			return true, nil, errors.New("only the approval may be updated")
		}
		if s.approvalErr != nil {
			return true, nil, s.approvalErr
		}
		csr := a.(k8stesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		return true, csr, s.sign(csr)
	})
	return s
}

func (s *signer) sign(csr *certificatesv1.CertificateSigningRequest) error {
	csr = csr.DeepCopy()
	request := parse(s.t, csr)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: request.Subject, IPAddresses: request.IPAddresses,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, request.PublicKey, s.key)
	if err != nil {
		return err
	}
	csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: der})
	return s.kube.Tracker().Update(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), csr, "")
}

func parse(t *testing.T, csr *certificatesv1.CertificateSigningRequest) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		t.Fatal("the request is not PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func newRunning(t *testing.T, s *signer) *Manager {
	t.Helper()
	// The fake client cannot stream lists, and says so in a way that does not get through our wrapper.
	featurestesting.SetFeatureDuringTest(t, features.WatchListClient, false)
	ctx, cancel := context.WithCancel(context.Background())
	m, err := New(ctx, Config{Kube: s.kube, Replica: "replica-1", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	first, err := m.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, first, first.Certificate[len(first.Certificate)-1])
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

// verify checks a certificate as a kube-apiserver does that was given the CA of kubelets.
func verify(t *testing.T, cert *tls.Certificate, ca []byte) {
	t.Helper()
	root, err := x509.ParseCertificate(ca)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: address.String()}); err != nil {
		t.Error(err)
	}
}

func waitForCluster(t *testing.T, s *signer, m *Manager) {
	t.Helper()
	eventually.Holds(t, "the cluster's certificate replaces the self-signed one", func() bool {
		cert, err := m.GetCertificate(nil)
		return err == nil && !bytes.Equal(cert.Certificate[0], m.selfSigned.Certificate[0])
	})
	cert, _ := m.GetCertificate(nil)
	verify(t, cert, s.ca.Raw)
}

func TestCertificateComesFromTheCluster(t *testing.T) {
	s := newSigner(t)
	m := newRunning(t, s)
	waitForCluster(t, s, m)

	csr := <-s.requests
	request := parse(t, csr)
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		t.Errorf("signer %q", csr.Spec.SignerName)
	}
	if !slices.Equal(csr.Spec.Usages, []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}) {
		t.Errorf("usages %v", csr.Spec.Usages)
	}
	if got := request.Subject.String(); got != "CN=system:node:replica-1,O=system:nodes" {
		t.Errorf("subject %q is not what the signer demands", got)
	}
	if len(request.IPAddresses) != 1 || !request.IPAddresses[0].Equal(address) || len(request.DNSNames) != 0 {
		t.Errorf("names %v %v", request.IPAddresses, request.DNSNames)
	}
}

func TestSomebodyElseApproves(t *testing.T) {
	s := newSigner(t)
	s.approvalErr = apierrors.NewForbidden(certificatesv1.Resource("signers"), certificatesv1.KubeletServingSignerName, errors.New("no"))
	m := newRunning(t, s)
	csr := <-s.requests
	if cert, err := m.GetCertificate(nil); err != nil || cert != m.selfSigned {
		t.Errorf("want the self-signed certificate meanwhile, got %v", err)
	}
	<-s.watched
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	if err := s.sign(csr); err != nil {
		t.Fatal(err)
	}
	waitForCluster(t, s, m)
}

// TestOthersRequestsAreNotApproved has the request of somebody else lying there.
func TestOthersRequestsAreNotApproved(t *testing.T) {
	s := newSigner(t)
	other := &certificatesv1.CertificateSigningRequest{}
	other.Name = "other"
	other.Spec.SignerName = certificatesv1.KubeletServingSignerName
	if err := s.kube.Tracker().Add(other); err != nil {
		t.Fatal(err)
	}
	waitForCluster(t, s, newRunning(t, s))
	for _, a := range s.kube.Actions() {
		if update, ok := a.(k8stesting.UpdateAction); ok && a.GetVerb() == "update" {
			if name := update.GetObject().(*certificatesv1.CertificateSigningRequest).Name; name != "csr-1" {
				t.Errorf("touched %s", name)
			}
		}
	}
}
