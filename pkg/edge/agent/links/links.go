// Package links chooses how a device reaches aranya: over TCP, through HTTPS or through an MQTT broker, in
// the order of the configuration. It makes dialers from configuration and remembers which one works; what
// runs over a link, and when to connect, is the business of the package uplink.
package links

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
)

// one is a way to reach aranya.
type one struct {
	address string
	link.Dialer
}

// Links is a dialer that keeps to the link that worked last and goes on to the next one after a failure. All
// methods may be called concurrently.
type Links struct {
	links []one

	mu      sync.Mutex
	current int    // the link that is in use, or will be tried next
	tried   bool   // current was dialled
	proven  bool   // and turned out to work
	dialled string // address of the link that was dialled last
}

// New returns the links of a configuration, which must be valid, for a device, of which the namespace and the
// name are needed for MQTT. Files that it names are read at each attempt to connect.
func New(cfg *config.Configuration, device identity.Device) *Links {
	l := &Links{}
	for _, a := range cfg.Addresses() {
		l.links = append(l.links, one{a.String(), newDialer(cfg, a, device)})
	}
	return l
}

// Check reads the files that the links of a configuration, which must be valid, need: a link that is there for when
// another one fails is not used before, and then nobody reaches the device to mend it. The error names each link that
// could not connect now.
func Check(cfg *config.Configuration) error {
	var errs []error
	for _, l := range New(cfg, identity.Device{}).links {
		if c, ok := l.Dialer.(checker); ok {
			if err := c.check(); err != nil {
				errs = append(errs, fmt.Errorf("by %s: %w", l.address, err))
			}
		}
	}
	return errors.Join(errs...)
}

// String lists the addresses.
func (l *Links) String() string {
	addresses := make([]string, len(l.links))
	for i, link := range l.links {
		addresses[i] = link.address
	}
	return strings.Join(addresses, ", ")
}

// Dial implements link.Dialer. It tries one link; the address is not used.
func (l *Links) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	if len(l.links) == 0 {
		return nil, errors.New("no address of the server is configured")
	}
	l.mu.Lock()
	if l.tried && !l.proven {
		l.current = (l.current + 1) % len(l.links)
	}
	l.tried, l.proven = true, false
	next := l.links[l.current]
	l.dialled = next.address
	l.mu.Unlock()
	conn, err := next.Dial(ctx, next.address)
	if err == nil {
		return conn, nil
	}
	if len(l.links) == 1 {
		return nil, err
	}
	return nil, &attemptError{err}
}

// Close implements io.Closer. It ends what was kept for the next Dial, not what Dial returned.
func (l *Links) Close() error {
	var errs []error
	for _, link := range l.links {
		if c, ok := link.Dialer.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Dialled is the address of the link that was dialled last, empty if none was.
func (l *Links) Dialled() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dialled
}

// Proven says that the link that was dialled last works. It is tried first when it breaks.
func (l *Links) Proven() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proven = true
}

// Disproven says that the link that was dialled last does not work, though it may have before. The next one is tried,
// if there is one.
func (l *Links) Disproven() (another bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proven = false
	return len(l.links) > 1
}

// Better returns a dialer of the links that come before the one in use, nil if there are none.
func (l *Links) Better() link.Dialer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == 0 {
		return nil
	}
	return &better{links: l, before: l.current}
}

// Prefer starts over with the first link, one that was dialled by way of Better.
func (l *Links) Prefer(d link.Dialer) {
	b, ok := d.(*better)
	if !ok || b.links != l {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.tried = b.found, false
}

// better dials one link after the other.
type better struct {
	links  *Links
	before int
	found  int
}

// Dial implements link.Dialer.
func (b *better) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	var errs []error
	for i, link := range b.links.links[:b.before] {
		conn, err := link.Dial(ctx, link.address)
		if err == nil {
			b.found = i
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("by %s: %w", link.address, err))
	}
	return nil, errors.Join(errs...)
}

// attemptError is the failure of one link of several: the next one may work, so that it makes sense to try
// again whatever the error is.
type attemptError struct{ error }

func (e *attemptError) Unwrap() error { return e.error }

// Timeout and Temporary implement net.Error.
func (*attemptError) Timeout() bool   { return false }
func (*attemptError) Temporary() bool { return true }
