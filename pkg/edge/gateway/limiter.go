package gateway

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/lru"
)

const (
	// A network address may fail to enrol this often per second, and in a burst. Success costs nothing, and who
	// has a genuine token is not asked: a thousand devices behind one router may come at once.
	failuresPerSecond = 5
	failureBurst      = 50
	// addressesTracked is how many addresses are remembered, the latest.
	addressesTracked = 4096

	// A key may be certified anew this often, and in a burst: each time something is written to etcd. A device
	// does so once in weeks.
	keyRenewal   = time.Minute
	renewalBurst = 5
	// keysTracked is how many keys are remembered, the latest.
	keysTracked = 4096
)

// failureLimiter slows down those who try enrolment tokens.
type failureLimiter struct {
	addresses *lru.Cache
}

func newFailureLimiter() *failureLimiter {
	return &failureLimiter{addresses: lru.New(addressesTracked)}
}

// allowed tells whether an address may try.
func (f *failureLimiter) allowed(addr net.Addr) bool {
	l, ok := f.addresses.Get(networkOf(addr))
	return !ok || l.(*rate.Limiter).Tokens() >= 1
}

// failed takes note of a failure.
func (f *failureLimiter) failed(addr net.Addr) {
	key := networkOf(addr)
	l, ok := f.addresses.Get(key)
	if !ok {
		l = rate.NewLimiter(failuresPerSecond, failureBurst)
		f.addresses.Add(key, l)
	}
	l.(*rate.Limiter).Allow()
}

// renewalLimiter slows down a device that renews its certificate over and over.
type renewalLimiter struct {
	mu   sync.Mutex
	keys *lru.Cache
}

func newRenewalLimiter() *renewalLimiter { return &renewalLimiter{keys: lru.New(keysTracked)} }

// allow tells whether the certificate of a key may be renewed now, which then counts.
func (r *renewalLimiter) allow(keyHash string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.keys.Get(keyHash)
	if !ok {
		l = rate.NewLimiter(rate.Every(keyRenewal), renewalBurst)
		r.keys.Add(keyHash, l)
	}
	return l.(*rate.Limiter).Allow()
}

// networkOf is the address without its port; of IPv6 the /64 that one customer has.
func networkOf(addr net.Addr) string {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String() // not an IP transport
	}
	ip := ap.Addr().Unmap()
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
