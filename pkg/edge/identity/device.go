package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/types"
)

// GatewayName is a DNS name in every certificate of a gateway. Devices verify it instead of the
// address that they dialled, which may be of a load balancer, an ingress or a tunnel.
const GatewayName = "gateway.aranya.arhat.dev"

const (
	urnNamespace = "arhat.dev:edgedevice:"
	maxUID       = 64
)

// Device identifies an EdgeDevice. The UID tells apart devices of one name over time.
type Device struct {
	Namespace, Name string
	UID             types.UID
}

// String returns <namespace>/<name>.
func (d Device) String() string { return d.Namespace + "/" + d.Name }

// URI returns the name of the device as it stands in its certificate:
// urn:arhat.dev:edgedevice:<namespace>:<name>:<uid>.
func (d Device) URI() *url.URL {
	return &url.URL{Scheme: "urn", Opaque: urnNamespace + d.Namespace + ":" + d.Name + ":" + string(d.UID)}
}

// Validate checks that the parts are what Kubernetes allows them to be. They end up in topics, paths
// and logs.
func (d Device) Validate() error {
	if msgs := content.IsDNS1123Label(d.Namespace); len(msgs) > 0 {
		return fmt.Errorf("namespace %q: %s", clip(d.Namespace), msgs[0])
	}
	if msgs := content.IsDNS1123Subdomain(d.Name); len(msgs) > 0 {
		return fmt.Errorf("name %q: %s", clip(d.Name), msgs[0])
	}
	if d.UID == "" || len(d.UID) > maxUID {
		return fmt.Errorf("UID has %d characters, must have 1 to %d", len(d.UID), maxUID)
	}
	for _, c := range []byte(d.UID) {
		if letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'; !letterOrDigit && c != '-' {
			return fmt.Errorf("UID %q: only letters, digits and '-' are allowed", string(d.UID))
		}
	}
	return nil
}

// parseURI reads what URI wrote.
func parseURI(u *url.URL) (Device, error) {
	if u == nil || u.Scheme != "urn" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return Device{}, errors.New("not the URN of an EdgeDevice")
	}
	rest, ok := strings.CutPrefix(u.Opaque, urnNamespace)
	if !ok {
		return Device{}, errors.New("not the URN of an EdgeDevice")
	}
	parts := strings.Split(rest, ":")
	if len(parts) != 3 {
		return Device{}, fmt.Errorf("the URN of an EdgeDevice has 3 parts (namespace, name, UID), this one has %d", len(parts))
	}
	d := Device{Namespace: parts[0], Name: parts[1], UID: types.UID(parts[2])}
	return d, d.Validate()
}

// FromCertificate returns the device that a certificate names. It verifies nothing else about it.
func FromCertificate(cert *x509.Certificate) (Device, error) {
	if len(cert.URIs) != 1 {
		return Device{}, fmt.Errorf("a device certificate has one URI, this one has %d", len(cert.URIs))
	}
	return parseURI(cert.URIs[0])
}

// PublicKeyHash returns the hexadecimal SHA-256 of a certificate's public key (DER,
// SubjectPublicKeyInfo), as in EdgeDevice status.certificate.publicKeySHA256.
func PublicKeyHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// clip bounds what goes into an error from outside.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
