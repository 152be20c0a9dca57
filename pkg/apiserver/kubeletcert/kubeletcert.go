package kubeletcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"
)

// Config configures a Manager.
type Config struct {
	// Kube is the main cluster. It must be allowed to create, watch and approve the request.
	Kube kubernetes.Interface
	// Replica is the name of this process; it becomes part of the certificate's subject.
	Replica string
	// Address is what Nodes publish.
	Address net.IP
}

// Manager has the certificate of the kubelet endpoint. All methods may be called concurrently.
type Manager struct {
	certs      certificate.Manager
	selfSigned *tls.Certificate
}

// New returns a Manager that serves a self-signed certificate until Run has got one from the cluster, so
// that logs and exec work from the first moment where kube-apiserver does not verify kubelets.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	certPEM, keyPEM, err := certutil.GenerateSelfSignedCertKey(cfg.Address.String(), []net.IP{cfg.Address}, nil)
	if err != nil {
		return nil, fmt.Errorf("make a self-signed certificate for the kubelet endpoint: %w", err)
	}
	selfSigned, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	certs, err := certificate.NewManager(&certificate.Config{
		Name: "kubelet-serving-certificate",
		Ctx:  &ctx,
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) {
			return approvingClient{Interface: cfg.Kube}, nil
		},
		// What the signer demands of the subject: see "Kubernetes signers" in the Kubernetes docs.
		Template: &x509.CertificateRequest{
			Subject: pkix.Name{
				CommonName:   "system:node:" + cfg.Replica,
				Organization: []string{user.NodesGroup},
			},
			IPAddresses: []net.IP{cfg.Address},
		},
		SignerName:       certificatesv1.KubeletServingSignerName,
		GetUsages:        certificate.DefaultKubeletServingGetUsages,
		CertificateStore: &memoryStore{},
	})
	if err != nil {
		return nil, fmt.Errorf("set up the certificate of the kubelet endpoint: %w", err)
	}
	return &Manager{certs: certs, selfSigned: &selfSigned}, nil
}

// Run requests the certificate, and renews it before it expires, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	m.certs.Start()
	<-ctx.Done()
	m.certs.Stop()
	klog.FromContext(ctx).V(2).Info("The certificate of the kubelet endpoint is not renewed any more")
}

// GetCertificate is for tls.Config.
func (m *Manager) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := m.certs.Current(); cert != nil {
		return cert, nil
	}
	return m.selfSigned, nil
}

// memoryStore keeps the key off the disk: a restart asks for another certificate.
type memoryStore struct {
	mu   sync.Mutex
	cert *tls.Certificate
}

func (s *memoryStore) Current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert == nil {
		err := certificate.NoCertKeyError("no certificate yet")
		return nil, &err
	}
	return s.cert, nil
}

func (s *memoryStore) Update(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the signer's answer is no certificate for our key: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert = &cert
	return &cert, nil
}
