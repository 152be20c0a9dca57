package servingcert

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// SecretName is the Secret that holds the CA, in aranya's namespace.
const SecretName = "aranya-serving-ca"

// Keys of the Secret. The one that signs is where everybody looks for a key pair.
const (
	keyCurrentCert = corev1.TLSCertKey
	keyCurrentKey  = corev1.TLSPrivateKeyKey
	keyNextCert    = "next.crt"
	keyNextKey     = "next.key"
	keyPrevious    = "previous.crt"
	// keyBundle is for people and tools that want to verify the server; we do not read it.
	keyBundle = corev1.ServiceAccountRootCAKey
)

// state is what the Secret holds.
type state struct {
	current  *authority        // signs
	next     *authority        // trusted, will sign; may be nil
	previous *x509.Certificate // trusted, does not sign any more; may be nil
}

func newState(now time.Time) (*state, error) {
	ca, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	return &state{current: ca}, nil
}

// advance takes the step of the rotation that is due, if one is.
func (s *state) advance(now time.Time) (changed bool, err error) {
	if !now.Before(s.current.cert.NotAfter) {
		// Nobody was there to rotate it: there is nothing to overlap with.
		fresh, err := newState(now)
		if err != nil {
			return false, err
		}
		*s = *fresh
		return true, nil
	}
	if s.next == nil && !now.Before(renewAt(s.current.cert)) {
		if s.next, err = newAuthority(now); err != nil {
			return false, err
		}
		changed = true
	}
	if s.next != nil && (!now.Before(s.next.publishedAt().Add(overlap)) || !now.Before(s.current.cert.NotAfter.Add(-overlap))) {
		s.previous, s.current, s.next = s.current.cert, s.next, nil
		changed = true
	}
	if s.previous != nil && !now.Before(s.dropPreviousAt()) {
		s.previous = nil
		changed = true
	}
	return changed, nil
}

// dropPreviousAt is when no certificate signed by the previous CA can be in use any more.
func (s *state) dropPreviousAt() time.Time {
	at := s.current.publishedAt().Add(overlap + leafLifetime)
	if s.previous.NotAfter.Before(at) {
		return s.previous.NotAfter
	}
	return at
}

// nextStep is when advance has something to do again.
func (s *state) nextStep() time.Time {
	at := renewAt(s.current.cert)
	if s.next != nil {
		at = s.next.publishedAt().Add(overlap)
	}
	if s.previous != nil && s.dropPreviousAt().Before(at) {
		at = s.dropPreviousAt()
	}
	return at
}

// bundle is what clients must trust, in PEM.
func (s *state) bundle() ([]byte, error) {
	certs := []*x509.Certificate{s.current.cert}
	if s.next != nil {
		certs = append(certs, s.next.cert)
	}
	if s.previous != nil {
		certs = append(certs, s.previous)
	}
	return certutil.EncodeCertificates(certs...)
}

// secret returns the Secret for this state.
func (s *state) secret(namespace string) (*corev1.Secret, error) {
	bundle, err := s.bundle()
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: SecretName},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{keyBundle: bundle},
	}
	if err := s.current.encode(secret.Data, keyCurrentCert, keyCurrentKey); err != nil {
		return nil, err
	}
	if s.next != nil {
		if err := s.next.encode(secret.Data, keyNextCert, keyNextKey); err != nil {
			return nil, err
		}
	}
	if s.previous != nil {
		if secret.Data[keyPrevious], err = certutil.EncodeCertificates(s.previous); err != nil {
			return nil, err
		}
	}
	return secret, nil
}

func (a *authority) encode(data map[string][]byte, certName, keyName string) (err error) {
	if data[certName], err = certutil.EncodeCertificates(a.cert); err != nil {
		return err
	}
	data[keyName], err = keyutil.MarshalPrivateKeyToPEM(a.key)
	return err
}

// parseState reads the Secret. Errors name the key that is wrong.
func parseState(secret *corev1.Secret) (*state, error) {
	s := &state{}
	var err error
	if s.current, err = decode(secret.Data, keyCurrentCert, keyCurrentKey); err != nil {
		return nil, err
	}
	if len(secret.Data[keyNextCert]) > 0 {
		if s.next, err = decode(secret.Data, keyNextCert, keyNextKey); err != nil {
			return nil, err
		}
	}
	if len(secret.Data[keyPrevious]) > 0 {
		if s.previous, err = decodeCert(secret.Data, keyPrevious); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func decode(data map[string][]byte, certName, keyName string) (*authority, error) {
	cert, err := decodeCert(data, certName)
	if err != nil {
		return nil, err
	}
	if len(data[keyName]) == 0 {
		return nil, fmt.Errorf("%s is missing", keyName)
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(data[keyName])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyName, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: keys of type %T cannot sign", keyName, parsed)
	}
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s is not the key of %s", keyName, certName)
	}
	return &authority{cert: cert, key: key}, nil
}

func decodeCert(data map[string][]byte, name string) (*x509.Certificate, error) {
	if len(data[name]) == 0 {
		return nil, fmt.Errorf("%s is missing", name)
	}
	certs, err := certutil.ParseCertsPEM(data[name])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !certs[0].IsCA {
		return nil, fmt.Errorf("%s is not a CA certificate", name)
	}
	return certs[0], nil
}
