package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Config is what a Gateway needs. The first group has no defaults.
type Config struct {
	// Listener takes the connections of devices, see link.ListenTCP. The gateway closes it.
	Listener net.Listener
	// Authority is the device CA.
	Authority *Authority
	// Devices is where the gateway looks EdgeDevices up.
	Devices Directory
	// Handler is told about sessions and messages.
	Handler Handler
	// Replica is the name of this replica, told to devices and shown in link status.
	Replica string

	// Names are DNS names and IP addresses under which devices reach the gateway. They go into its
	// certificate for the benefit of other TLS clients; devices verify identity.GatewayName.
	Names []string

	// Certificates returns the certificate for a host name that HTTPS clients ask for, or nil for the
	// gateway's own. Optional. It must be quick and may be called concurrently.
	Certificates func(serverName string) *tls.Certificate

	// IdentityInUse is told of two machines that use the identity of one device, each time that one takes the link
	// from the other after it was sure. Optional. It must be quick and may be called concurrently.
	IdentityInUse func(device Device, one, other Machine)

	// Refused is told of an identity that is refused, until the device enrols anew as a rule, now and then as it tries
	// again: who it says it is, which may be an EdgeDevice that is being deleted or not there any more, from where, and
	// why. Optional. It must be quick and may be called concurrently.
	Refused func(device Device, address, reason string)

	// CertificateLifetime of device certificates. Devices renew at two thirds of it. Default 30 days.
	CertificateLifetime time.Duration
	// RenewalGrace is how long after expiry a device may still renew with its old key. Default 90 days.
	RenewalGrace time.Duration
	// PingTimeout is how long a device may take to answer a ping. Default 10 s.
	PingTimeout time.Duration
	// ParkAfter is after how much silence a link is parked whose transport can do that, 0 for never.
	ParkAfter time.Duration
	// CacheLag is how long the directory's cache may lag behind a certificate that was just issued,
	// perhaps by another replica. Default 5 s.
	CacheLag time.Duration
	// MaxStreams is how many streams one device may have at a time. Default 256.
	MaxStreams int
	// MaxAnonymous is how many connections there may be at a time that have shown no device certificate, of
	// devices that are about to enrol: from the end of their TLS handshake until they have. Default 1024.
	MaxAnonymous int
}

// Directory is the gateway's view of the EdgeDevices.
type Directory interface {
	// Get returns an EdgeDevice from a cache, not to be modified. An error for which
	// apierrors.IsNotFound holds says that it does not exist.
	Get(namespace, name string) (*v1alpha1.EdgeDevice, error)
	// Stored is the same for an EdgeDevice as it is stored.
	Stored(ctx context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error)
	// SetCertificate writes into status.certificate (with what follows from it, such as the condition
	// Enrolled) what Certified makes of it. That must be of the EdgeDevice as stored, not as cached, and nothing
	// may be written in between: of two enrolments with one token, one must fail. The errors are those of
	// Certified, or one for which apierrors.IsNotFound holds, or others that may pass.
	SetCertificate(ctx context.Context, device Device, certificate v1alpha1.CertificateStatus, token time.Time) error
}

const (
	// DefaultParkAfter is longer than what belongs together usually takes, and short beside the life of a link.
	DefaultParkAfter = time.Minute

	// defaultPodCapacity is spec.pod.capacity if it is not set.
	defaultPodCapacity = 110
)

func (c *Config) complete() error {
	switch {
	case c.Listener == nil:
		return errors.New("gateway: no listener")
	case c.Authority == nil:
		return errors.New("gateway: no device CA")
	case c.Devices == nil:
		return errors.New("gateway: no directory of devices")
	case c.Handler == nil:
		return errors.New("gateway: no handler")
	}
	c.CertificateLifetime = cmp.Or(c.CertificateLifetime, 30*24*time.Hour)
	c.RenewalGrace = cmp.Or(c.RenewalGrace, 90*24*time.Hour)
	c.PingTimeout = cmp.Or(c.PingTimeout, 10*time.Second)
	c.CacheLag = cmp.Or(c.CacheLag, 5*time.Second)
	c.MaxStreams = cmp.Or(c.MaxStreams, 256)
	c.MaxAnonymous = cmp.Or(c.MaxAnonymous, 1024)
	return nil
}
