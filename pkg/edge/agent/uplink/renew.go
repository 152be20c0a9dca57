package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// renewRetry is how long to wait after a renewal that failed.
const renewRetry = 5 * time.Minute

// renewExpired renews a certificate that expired while the device was offline, by its own clock or by the
// server's, over a connection of its own: Connect takes a valid one only.
func (c *Client) renewExpired(ctx context.Context) error {
	id := c.id.Load()
	if !c.expired && time.Now().Before(id.cert.NotAfter) {
		return nil
	}
	conn, err := dial(ctx, c.config.Dialer, c.config.Server, id.tls(), c.ledger)
	if err != nil {
		return err
	}
	defer conn.close()
	if err := c.renew(ctx, conn); err != nil {
		return conn.tls.explain(err)
	}
	if chooser, ok := c.config.Dialer.(Chooser); ok {
		chooser.Proven() // the same link is dialled next
	}
	return nil
}

// renew gets the next certificate, for the same key, and keeps it if it can.
func (c *Client) renew(ctx context.Context, conn grpc.ClientConnInterface) error {
	id := c.id.Load()
	csr, err := request(id.key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := edgeapi.NewEdgeClient(conn).Renew(ctx, &edgeapi.RenewRequest{Csr: csr})
	if err != nil {
		return plain(err)
	}
	next, err := newIdentity(id.key, resp.GetCertificate(), resp.GetCa(), id.tokenID)
	if err != nil {
		return fmt.Errorf("the server sent a certificate that cannot be used: %w", err)
	}
	if next.device != id.device {
		return errors.New("the server sent a certificate of another device")
	}
	c.id.Store(next)
	c.expired = false
	klog.FromContext(ctx).Info("Renewed the device certificate", "notAfter", next.cert.NotAfter)
	c.keep(ctx)
	return nil
}

// keep writes the renewed certificate to the disk. If that is full the device goes on with what it has in memory.
func (c *Client) keep(ctx context.Context) {
	err := c.id.Load().save(c.config.StateDir)
	if c.unkept = err != nil; c.unkept {
		klog.FromContext(ctx).Error(err, "The renewed certificate is in use, but cannot be kept in the state directory", "stateDir", c.config.StateDir, "retryIn", renewRetry)
	}
}

// nextRenewal is when to renew next, or to try again to keep the certificate.
func (c *Client) nextRenewal() time.Duration {
	next := renewPlan(c.id.Load(), time.Now())
	if c.unkept {
		next = min(next, renewRetry)
	}
	return next
}

// renewPlan is when to renew: at two thirds of the certificate's life, spread a little so that devices
// which enrolled together do not come together. Zero or less is now.
func renewPlan(id *deviceIdentity, now time.Time) time.Duration {
	spread := id.cert.NotAfter.Sub(id.cert.NotBefore) / 20
	return id.renewFrom().Add(rand.N(spread + 1)).Sub(now)
}
