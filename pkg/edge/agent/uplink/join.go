package uplink

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
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

// Joined is the link over which a device has enrolled: a Client can go on with it, instead of another
// handshake.
type Joined struct {
	id     *deviceIdentity
	server string
	dialer link.Dialer
	ledger *traffic.Ledger
	conn   atomic.Pointer[connection]
}

// Device is who the device is.
func (j *Joined) Device() identity.Device { return j.id.device }

// Close closes the link, unless a Client has taken it over. It may be called for nil, and again.
func (j *Joined) Close() {
	if conn := j.take(); conn != nil {
		conn.close()
	}
}

// take returns the link once, then nil.
func (j *Joined) take() *connection {
	if j == nil {
		return nil
	}
	return j.conn.Swap(nil)
}

// Join enrols the device: it makes a key, exchanges the token for a certificate, and keeps both in the
// state directory, where they take the place of a former identity. A server that cannot be reached, or
// not by the link that was taken, is tried again for a minute. What it returns must be closed; it is nil if the device
// is enrolled and has no other token than it enrolled with.
func Join(ctx context.Context, o JoinOptions) (*Joined, error) {
	former, err := loadIdentity(o.StateDir)
	if o.Token == "" {
		return nil, err
	}
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		// What is there cannot be used; enrolling anew is the way out.
		klog.FromContext(ctx).Info("Replacing a damaged identity", "stateDir", o.StateDir, "problem", err.Error())
	}
	token, err := identity.ParseToken(o.Token)
	if err != nil {
		return nil, err
	}
	if former != nil && former.tokenID == token.ID {
		return nil, nil
	}
	if o.Dialer == nil {
		o.Dialer = link.TCP{}
	}
	joined, err := enrolPatiently(ctx, o, token)
	if err != nil {
		return nil, fmt.Errorf("enrolling with %s: %w", o.Server, err)
	}
	id := joined.id
	if err := id.save(o.StateDir); err != nil {
		joined.Close()
		return nil, fmt.Errorf("keeping the identity of the device: %w", err)
	}
	klog.FromContext(ctx).Info("Enrolled", "edgeDevice", klog.KRef(id.device.Namespace, id.device.Name), "notAfter", id.cert.NotAfter)
	return joined, nil
}

func enrolPatiently(ctx context.Context, o JoinOptions, token identity.Token) (*Joined, error) {
	// One key for all attempts: the token is used up by it if the answer to one of them gets lost.
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	retry := backoff{max: joinBackoff}
	for {
		joined, err := enrol(ctx, o, token, key)
		if err == nil {
			return joined, nil
		}
		chooser, ok := o.Dialer.(Chooser)
		byAnother := ok && refusalOf(err) == wrongLink && chooser.Disproven()
		if !byAnother && !isTransient(err) {
			return nil, err
		}
		pause := retry.next(notRefused)
		klog.FromContext(ctx).Info("Could not enrol", "server", dialled(o.Dialer, o.Server), "reason", err.Error(), "retryIn", pause)
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

func enrol(ctx context.Context, o JoinOptions, token identity.Token, key crypto.Signer) (*Joined, error) {
	config, pinned, err := enrolTLS(key, token.CAHash)
	if err != nil {
		return nil, err
	}
	joined := &Joined{server: o.Server, dialer: o.Dialer, ledger: &traffic.Ledger{}}
	conn, err := dial(ctx, o.Dialer, o.Server, config, joined.ledger)
	if err != nil {
		return nil, err
	}
	joined.conn.Store(conn)
	if joined.id, err = exchange(ctx, conn, key, o.Token, token.ID); err == nil && !slices.ContainsFunc(joined.id.ca, (*pinned).Equal) {
		err = errors.New("the server's CA certificates do not include the one that the token names")
	}
	if err != nil {
		joined.Close()
		return nil, err
	}
	return joined, nil
}

// exchange exchanges a token for a certificate.
func exchange(ctx context.Context, conn *connection, key crypto.Signer, token, tokenID string) (*deviceIdentity, error) {
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := edgeapi.NewEdgeClient(conn).Enroll(ctx, &edgeapi.EnrollRequest{Token: token, Csr: csr})
	if err != nil {
		return nil, plain(err)
	}
	return newIdentity(key, resp.GetCertificate(), resp.GetCa(), tokenID)
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
