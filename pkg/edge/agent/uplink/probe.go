package uplink

import (
	"errors"
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/link"
)

// Chooser is a Dialer that has several transports to choose from.
type Chooser interface {
	link.Dialer
	// Dialled is the address that was dialled last, for the log.
	Dialled() string
	// Proven says that the connection that was dialled last serves.
	Proven()
	// Disproven says that the server does not take the device over that connection. Another transport is dialled next,
	// if there is one.
	Disproven() (another bool)
	// Better returns a dialer of the transports that are preferred to the one in use, or nil.
	Better() link.Dialer
	// Prefer says that what Better returned has made a connection that would serve. It is dialled next.
	Prefer(link.Dialer)
}

// errBetter ends a link in favour of another.
var errBetter = errors.New("a link that is preferred works again")

// probe tries from time to time whether a link that is preferred works again, and if so, leaves this one
// when no stream is open.
func (t *control) probe(chooser Chooser) {
	interval := t.client.config.ProbeInterval
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(interval - interval/10 + rand.N(interval/5+1))
		better := chooser.Better()
		if better == nil || t.busy() {
			continue
		}
		conn, err := dial(t.ctx, better, t.client.config.Server, t.client.id.Load().tls(), t.client.ledger)
		if err != nil {
			klog.FromContext(t.ctx).V(4).Info("No link that is preferred works yet", "reason", err.Error())
			continue
		}
		conn.close()
		if !t.busy() {
			chooser.Prefer(better)
			t.cancel(errBetter)
			return
		}
	}
}
