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
	// All that may be wrong with the request is found before the token is used up.
	csr, err := checkCSR(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	token, err := identity.ParseToken(req.GetToken())
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	record, err := g.config.Tokens.Get(ctx, token.Hash())
	if err != nil {
		return nil, tokenError(err)
	}
	if err := g.enrollable(ctx, record.Device); err != nil {
		return nil, err
	}
	if err := info.conn.permits(record.Device); err != nil {
		return nil, err
	}
	if err := g.config.Tokens.Consume(ctx, record); err != nil {
		return nil, tokenError(err)
	}
	cert, err := g.issue(ctx, csr, record.Device, true)
	if err != nil {
		return nil, g.enrolFailed(ctx, record, err)
	}
	// Whoever had the device's identity before is out. Other replicas see it by the EdgeDevice.
	if s := g.registry.get(record.Device.Namespace, record.Device.Name); s != nil && s.keyHash != publicKeyHash(csr) {
		s.Close(status.Errorf(codes.PermissionDenied, "another enrolment as EdgeDevice %s has replaced the key of this device", record.Device))
	}
	info.enrolled(credentialOf(record.Device, publicKeyHash(csr), cert))
	g.logger.Info("Enrolled a device", "edgeDevice", klog.KRef(record.Device.Namespace, record.Device.Name), "token", record.ID,
		"serialNumber", serialOf(cert), "notAfter", cert.NotAfter)
	return &edgeapi.EnrollResponse{
		Certificate: cert.Raw,
		Ca:          g.config.Authority.derBundle(),
		Namespace:   record.Device.Namespace,
		Name:        record.Device.Name,
		Uid:         string(record.Device.UID),
	}, nil
}

func tokenError(err error) error {
	if errors.Is(err, ErrTokenUnknown) {
		return status.Error(codes.Unauthenticated, "the enrolment token is unknown, expired or used up: "+
			"create another one with \"kubectl edge token\"")
	}
	return status.Errorf(codes.Unavailable, "the enrolment token cannot be checked right now: %v", err)
}

// enrolFailed gives the token back, unless the EdgeDevice is gone.
func (g *Gateway) enrolFailed(ctx context.Context, record *TokenRecord, err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return status.Errorf(codes.Unauthenticated, "EdgeDevice %s, which the token is for, does not exist any more", record.Device)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if restoreErr := g.config.Tokens.Restore(ctx, record); restoreErr != nil {
		return status.Errorf(codes.Internal, "enrolling failed: %v. The token is lost as well; create another one", err)
	}
	return status.Errorf(codes.Unavailable, "enrolling failed: %v. The token is still good; try again", err)
}

// issue signs a certificate and records it with the EdgeDevice, from when on it is the one in force.
func (g *Gateway) issue(ctx context.Context, csr *x509.CertificateRequest, device Device, rekey bool) (*x509.Certificate, error) {
	cert, err := g.config.Authority.signDevice(csr, device, g.config.CertificateLifetime)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	err = g.config.Devices.SetCertificate(ctx, device, v1alpha1.CertificateStatus{
		SerialNumber:    serialOf(cert),
		PublicKeySHA256: identity.PublicKeyHash(cert),
		NotAfter:        metav1.NewTime(cert.NotAfter),
	}, rekey)
	if err != nil {
		return nil, fmt.Errorf("recording the certificate in the EdgeDevice's status: %w", err)
	}
	return cert, nil
}

func serialOf(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// Renew issues the next certificate to a device, for the same key.
func (g *Gateway) Renew(ctx context.Context, req *edgeapi.RenewRequest) (*edgeapi.RenewResponse, error) {
	resp, err := g.renew(ctx, req)
	renewals.WithLabelValues(status.Code(err).String()).Inc()
	return resp, err
}

func (g *Gateway) renew(ctx context.Context, req *edgeapi.RenewRequest) (*edgeapi.RenewResponse, error) {
	_, c, err := deviceFrom(ctx)
	if err != nil {
		return nil, err
	}
	if time.Now().After(c.notAfter.Add(g.config.RenewalGrace)) {
		refused.WithLabelValues(refusedExpired).Inc()
		return nil, status.Errorf(codes.PermissionDenied, "the device certificate expired at %s, longer ago than the grace period of %s. %s",
			c.notAfter.UTC().Format(time.RFC3339), g.config.RenewalGrace, enrolAnew)
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
	cert, err := g.issue(ctx, csr, c.device, false)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
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
