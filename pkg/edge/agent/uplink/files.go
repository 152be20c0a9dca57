package uplink

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/identity"
)

// The identity of a device lies in the folder "identity" of the state directory. A change of several
// files is made as a whole: all are written beside the old ones first, the certificate last, which
// appears there whole, then they are renamed. A certificate beside the old one therefore means that
// the change was complete, and loading finishes it.
const (
	identityDir = "identity"
	keyFile     = "key.pem"
	caFile      = "ca.pem"
	tokenFile   = "token-id" // the id, not the secret, of the token that was used
	certFile    = "cert.pem"
	newSuffix   = ".new"
	partSuffix  = ".part" // a certificate that is being written

	maxIdentityFile = 1 << 20
)

// identityFiles is the order in which they are written.
var identityFiles = []string{keyFile, caFile, tokenFile, certFile}

// ErrNotEnrolled says that there is no identity in the state directory.
var ErrNotEnrolled = errors.New("this device is not enrolled")

const howToEnrol = `get a token with "kubectl edge token" and give it to "arhat join --token"`

// deviceIdentity is who the device is and whom it trusts. It is not modified once made.
type deviceIdentity struct {
	device  identity.Device
	key     crypto.Signer
	cert    *x509.Certificate
	ca      []*x509.Certificate
	tokenID string
}

func (id *deviceIdentity) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{id.cert.Raw}, PrivateKey: id.key, Leaf: id.cert}
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

// renewFrom is two thirds into the life of the certificate.
func (id *deviceIdentity) renewFrom() time.Time {
	return id.cert.NotBefore.Add(id.cert.NotAfter.Sub(id.cert.NotBefore) * 2 / 3)
}

// newIdentity checks what the server issued for a key.
func newIdentity(key crypto.Signer, certDER []byte, caDER [][]byte, tokenID string) (*deviceIdentity, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("the device certificate cannot be read: %w", err)
	}
	id := &deviceIdentity{key: key, cert: cert, tokenID: tokenID}
	if len(caDER) == 0 || len(caDER) > 16 {
		return nil, fmt.Errorf("there are %d CA certificates, expected 1 to 16", len(caDER))
	}
	for _, der := range caDER {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a CA certificate cannot be read: %w", err)
		}
		if !ca.IsCA {
			return nil, errors.New("a certificate that is given as a CA's is not one")
		}
		id.ca = append(id.ca, ca)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("the device certificate is for another key")
	}
	// At a time when it is valid: it may have expired since, and a device's clock may be wrong.
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: poolOf(id.ca), CurrentTime: cert.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("the device certificate was not issued by the CA: %w", err)
	}
	if id.device, err = identity.FromCertificate(cert); err != nil {
		return nil, fmt.Errorf("the device certificate names no device: %w", err)
	}
	return id, nil
}

// loadIdentity reads the identity. The error is ErrNotEnrolled if there is none.
func loadIdentity(stateDir string) (*deviceIdentity, error) {
	dir := filepath.Join(stateDir, identityDir)
	id, err := readIdentity(dir)
	var errno syscall.Errno
	switch {
	case err == nil:
		return id, nil
	case errors.Is(err, ErrNotEnrolled):
		return nil, fmt.Errorf("%w: there is no certificate in %s; %s, or set stateDir to where the identity is", err, dir, howToEnrol)
	case errors.As(err, &errno) && errno != syscall.ENOENT:
		return nil, fmt.Errorf("the identity in %s cannot be read: %w", dir, err)
	default:
		return nil, fmt.Errorf("the identity in %s cannot be used: %w; to enrol the device anew, %s", dir, err, howToEnrol)
	}
}

func readIdentity(dir string) (*deviceIdentity, error) {
	if err := settle(dir); err != nil {
		return nil, err
	}
	certs, err := readCertificates(filepath.Join(dir, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled
	}
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s holds %d certificates, expected one", filepath.Join(dir, certFile), len(certs))
	}
	key, err := readKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	ca, err := readCertificates(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	tokenID, err := diskfile.Read(filepath.Join(dir, tokenFile), maxIdentityFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return newIdentity(key, certs[0], ca, strings.TrimSpace(string(tokenID)))
}

// save replaces the identity on disk.
func (id *deviceIdentity) save(stateDir string) error {
	dir := filepath.Join(stateDir, identityDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := settle(dir); err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return err
	}
	var ca []byte
	for _, c := range id.ca {
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	content := map[string][]byte{
		keyFile:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		caFile:    ca,
		tokenFile: []byte(id.tokenID + "\n"),
		certFile:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.cert.Raw}),
	}
	for _, name := range identityFiles {
		if name != certFile {
			if err := writeFile(filepath.Join(dir, name+newSuffix), content[name]); err != nil {
				return err
			}
		}
	}
	// The certificate must not be on disk before the others are.
	certPath := filepath.Join(dir, certFile)
	if err := errors.Join(writeFile(certPath+partSuffix, content[certFile]), diskfile.SyncDir(dir)); err != nil {
		return err
	}
	if err := os.Rename(certPath+partSuffix, certPath+newSuffix); err != nil {
		return err
	}
	if err := diskfile.SyncDir(dir); err != nil {
		return err
	}
	return settle(dir)
}

// settle finishes a change of the identity that was cut short, or drops what there is of it.
func settle(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := sets.New[string]()
	for _, e := range entries {
		there.Insert(e.Name())
	}
	complete := there.Has(certFile + newSuffix)
	changed := false
	for _, name := range identityFiles {
		if !there.Has(name + newSuffix) {
			continue
		}
		path := filepath.Join(dir, name)
		if complete {
			err = os.Rename(path+newSuffix, path)
		} else {
			err = os.Remove(path + newSuffix)
		}
		if err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return diskfile.SyncDir(dir)
}

// writeFile writes a file. Its content is on disk when it returns, its name need not be.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func readCertificates(path string) ([][]byte, error) {
	data, err := diskfile.Read(path, maxIdentityFile)
	if err != nil {
		return nil, err
	}
	var certs [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		certs = append(certs, block.Bytes)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return certs, nil
}

func readKey(path string) (crypto.Signer, error) {
	data, err := diskfile.Read(path, maxIdentityFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no private key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: the key cannot sign", path)
	}
	return signer, nil
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// request makes a certificate signing request. The server needs the key only.
func request(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}
