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
	// refusalInterval is how often it is told that the identity of a device is refused for one reason; it tries again
	// and again.
	refusalInterval = 10 * time.Minute
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

// keyLimiter limits how often something is done by its key: that of a device, say.
type keyLimiter struct {
	every time.Duration
	burst int

	mu   sync.Mutex
	keys *lru.Cache
}

func newKeyLimiter(every time.Duration, burst int) *keyLimiter {
	return &keyLimiter{every: every, burst: burst, keys: lru.New(keysTracked)}
}

// allow tells whether it may be done now, which then counts.
func (k *keyLimiter) allow(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, ok := k.keys.Get(key)
	if !ok {
		l = rate.NewLimiter(rate.Every(k.every), k.burst)
		k.keys.Add(key, l)
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
