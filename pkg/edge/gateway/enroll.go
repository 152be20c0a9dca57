package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
)

// Enroll exchanges a one-time token for a device certificate.
func (g *Gateway) Enroll(ctx context.Context, req *edgeapi.EnrollRequest) (*edgeapi.EnrollResponse, error) {
	info, err := peerFrom(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := g.enroll(ctx, info, req)
	code := status.Code(err)
	enrolments.WithLabelValues(code.String()).Inc()
	if code == codes.Unauthenticated || code == codes.InvalidArgument {
		g.failures.failed(info.conn.RemoteAddr())
		g.logger.Info("Refused an enrolment", "remote", remoteAddress(info.conn), "reason", status.Convert(err).Message())
	}
	return resp, err
}

func (g *Gateway) enroll(ctx context.Context, info *peerInfo, req *edgeapi.EnrollRequest) (*edgeapi.EnrollResponse, error) {
	// Behind a proxy all devices have one address. Whoever fails from there keeps out nobody with a token.
	token, tokenErr := identity.ParseToken(req.GetToken())
	if (tokenErr != nil || !g.knows(token)) && !g.failures.allowed(info.conn.RemoteAddr()) {
		refused.WithLabelValues(refusedRate).Inc()
		return nil, status.Error(codes.ResourceExhausted, "too many failed attempts to enrol from this address; try again in a few seconds")
	}
	csr, err := checkCSR(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if tokenErr != nil {
		return nil, status.Error(codes.Unauthenticated, tokenErr.Error())
	}
	keyHash := publicKeyHash(csr)
	e, err := g.enrollable(ctx, token, keyHash)
	if err != nil {
		return nil, err
	}
	if err := info.conn.permits(e.device); err != nil {
		return nil, err
	}
	// To record the certificate is what uses the token up: until then nothing has happened.
	cert, err := g.issue(ctx, csr, e.device, e.issued)
	if err != nil {
		return nil, enrolError(e.device, err)
	}
	// Whoever had the device's identity before is out. Other replicas see it by the EdgeDevice.
	if s := g.registry.get(e.device.Namespace, e.device.Name); s != nil && s.keyHash != keyHash {
		s.Close(status.Errorf(codes.PermissionDenied, "another enrolment as EdgeDevice %s has replaced the key of this device", e.device))
	}
	info.enrolled(credentialOf(e.device, keyHash, cert))
	g.logger.Info("Enrolled a device", "edgeDevice", klog.KRef(e.device.Namespace, e.device.Name), "token", token.ID,
		"serialNumber", serialOf(cert), "notAfter", cert.NotAfter)
	return &edgeapi.EnrollResponse{
		Certificate: cert.Raw,
		Ca:          g.config.Authority.derBundle(),
		Namespace:   e.device.Namespace,
		Name:        e.device.Name,
		Uid:         string(e.device.UID),
	}, nil
}

// enrolError is what a device is told whose certificate was not issued.
func enrolError(device Device, err error) error {
	switch {
	case errors.Is(err, ErrTokenUsed):
		return errTokenRefused
	case errors.Is(err, ErrReplaced), apierrors.IsNotFound(err):
		return status.Errorf(codes.Unauthenticated, "EdgeDevice %s, which the token is for, does not exist any more", device)
	}
	return status.Errorf(codes.Unavailable, "enrolling failed: %v. The token is still good; try again", err)
}

// issue signs a certificate and records it with the EdgeDevice, from when on it is the one in force. token is when
// the token of an enrolment was issued, zero for a renewal.
func (g *Gateway) issue(ctx context.Context, csr *x509.CertificateRequest, device Device, token time.Time) (*x509.Certificate, error) {
	cert, err := g.config.Authority.signDevice(csr, device, g.config.CertificateLifetime)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	next := v1alpha1.CertificateStatus{
		SerialNumber:    serialOf(cert),
		PublicKeySHA256: identity.PublicKeyHash(cert),
		NotAfter:        metav1.NewTime(cert.NotAfter),
	}
	if !token.IsZero() {
		// Not before the token was issued, by a replica whose clock may be ahead.
		at := g.clock.now()
		if token.After(at) {
			at = token
		}
		next.EnrolledAt = &metav1.MicroTime{Time: at}
	}
	if err := g.config.Devices.SetCertificate(ctx, device, next, token); err != nil {
		return nil, fmt.Errorf("recording the certificate in the EdgeDevice's status: %w", err)
	}
	return cert, nil
}

func serialOf(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// Renew issues the next certificate to a device, for the same key.
func (g *Gateway) Renew(ctx context.Context, req *edgeapi.RenewRequest) (*edgeapi.RenewResponse, error) {
	info, c, err := deviceFrom(ctx)
	var resp *edgeapi.RenewResponse
	if err == nil {
		if resp, err = g.renew(ctx, c, req); err != nil {
			g.tellRefused(info, c, err)
		}
	}
	renewals.WithLabelValues(status.Code(err).String()).Inc()
	return resp, err
}

func (g *Gateway) renew(ctx context.Context, c *credential, req *edgeapi.RenewRequest) (*edgeapi.RenewResponse, error) {
	if time.Now().After(c.notAfter.Add(g.config.RenewalGrace)) {
		refused.WithLabelValues(refusedExpired).Inc()
		return nil, status.Errorf(codes.PermissionDenied, "the device certificate expired at %s, longer ago than the grace period of %s. %s",
			c.notAfter.UTC().Format(time.RFC3339), duration.HumanDuration(g.config.RenewalGrace), enrolAnew)
	}
	if _, err := g.authorize(ctx, c); err != nil {
		return nil, err
	}
	csr, err := checkCSR(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if publicKeyHash(csr) != c.keyHash {
		return nil, status.Error(codes.InvalidArgument, "a renewal keeps the key of the certificate in force; to change the key, enrol anew")
	}
	if !g.renewals.allow(c.keyHash) {
		refused.WithLabelValues(refusedRate).Inc()
		return nil, status.Errorf(codes.ResourceExhausted, "EdgeDevice %s has renewed its certificate too often; try again in a minute", c.device)
	}
	cert, err := g.issue(ctx, csr, c.device, time.Time{})
	if errors.Is(err, ErrReplaced) || apierrors.IsNotFound(err) {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate of EdgeDevice %s is not renewed: it was deleted or enrolled anew. %s", c.device, enrolAnew)
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "renewing failed: %v", err)
	}
	if s := g.registry.get(c.device.Namespace, c.device.Name); s != nil && s.keyHash == c.keyHash {
		s.certificate(cert.NotBefore, cert.NotAfter)
	}
	g.logger.V(2).Info("Renewed a device certificate", "edgeDevice", klog.KRef(c.device.Namespace, c.device.Name),
		"serialNumber", serialOf(cert), "notAfter", cert.NotAfter)
	return &edgeapi.RenewResponse{Certificate: cert.Raw, Ca: g.config.Authority.derBundle()}, nil
}
