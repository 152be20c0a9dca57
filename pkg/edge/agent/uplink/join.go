package uplink

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
)

// JoinOptions say how to enrol.
type JoinOptions struct {
	// Server is the address of the gateway, host:port.
	Server string
	// Token is the enrolment token. Without it Join succeeds only if the device is enrolled already.
	// A token that this device has already used is taken as such, so that a command line with a token
	// can be run again.
	Token string
	// StateDir is where the identity is kept.
	StateDir string
	// Dialer is the transport. Default link.TCP{}.
	Dialer link.Dialer
}

const (
	// joinTime is how long Join goes on trying to reach the server.
	joinTime = time.Minute
	// joinBackoff is the longest pause between two attempts.
	joinBackoff = 5 * time.Second
)

// Join enrols the device: it makes a key, exchanges the token for a certificate, and keeps both in the
// state directory, where they take the place of a former identity. A server that cannot be reached is
// tried again for a minute.
func Join(ctx context.Context, o JoinOptions) error {
	former, err := loadIdentity(o.StateDir)
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		if o.Token == "" {
			return err
		}
		// What is there cannot be used; enrolling anew is the way out.
		klog.FromContext(ctx).Info("Replacing a damaged identity", "stateDir", o.StateDir, "problem", err.Error())
	}
	if o.Token == "" {
		if former == nil {
			return fmt.Errorf("%w: get a token with \"kubectl edge token\" and give it to \"arhat join --token\"", ErrNotEnrolled)
		}
		return nil
	}
	token, err := identity.ParseToken(o.Token)
	if err != nil {
		return err
	}
	if former != nil && former.tokenID == token.ID {
		return nil
	}
	if o.Dialer == nil {
		o.Dialer = link.TCP{}
	}
	id, err := enrolPatiently(ctx, o, token)
	if err != nil {
		return fmt.Errorf("enrolling with %s: %w", o.Server, err)
	}
	if err := id.save(o.StateDir); err != nil {
		return fmt.Errorf("keeping the identity of the device: %w", err)
	}
	klog.FromContext(ctx).Info("Enrolled", "edgeDevice", klog.KRef(id.device.Namespace, id.device.Name), "notAfter", id.cert.NotAfter)
	return nil
}

func enrolPatiently(ctx context.Context, o JoinOptions, token identity.Token) (*deviceIdentity, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	retry := backoff{max: joinBackoff}
	for {
		id, err := enrol(ctx, o, token)
		if err == nil || !isTransient(err) {
			return id, err
		}
		pause := retry.next(notRefused)
		klog.FromContext(ctx).Info("The server cannot be reached", "server", o.Server, "reason", err.Error(), "retryIn", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// isTransient tells whether an attempt to enrol failed in a way that may pass by itself.
func isTransient(err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted:
		return true
	default:
		return false
	}
}

func enrol(ctx context.Context, o JoinOptions, token identity.Token) (*deviceIdentity, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	var pinned *x509.Certificate
	conn, err := dial(ctx, o.Dialer, o.Server, pinnedTLS(token.CAHash, &pinned), new(traffic.Ledger))
	if err != nil {
		return nil, err
	}
	defer conn.close()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := edgeapi.NewEdgeClient(conn).Enroll(ctx, &edgeapi.EnrollRequest{Token: o.Token, Csr: csr})
	if err != nil {
		return nil, plain(err)
	}
	id, err := newIdentity(key, resp.GetCertificate(), resp.GetCa(), token.ID)
	if err != nil {
		return nil, err
	}
	for _, ca := range id.ca {
		if ca.Equal(pinned) {
			return id, nil
		}
	}
	return nil, errors.New("the server's CA certificates do not include the one that the token names")
}

// callError is a gRPC error as a person wants to read it. It keeps the code.
type callError struct{ st *status.Status }

func (e *callError) Error() string              { return e.st.Message() }
func (e *callError) GRPCStatus() *status.Status { return e.st }

func plain(err error) error {
	if st, ok := status.FromError(err); ok && st != nil {
		return &callError{st}
	}
	return err
}
