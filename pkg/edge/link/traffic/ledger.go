package traffic

import (
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// reportStep is how many bytes more than were told before are worth telling: what a heartbeat itself costs is
// not.
const reportStep = 1 << 10

// Ledger is what a device counts on each of its links, over all connections since its agent started. The zero
// value is ready for use.
type Ledger struct {
	mu    sync.Mutex
	links map[string]*Link // by method
}

// Link is the part of one link. What its calls carry is counted by Counters, what the network does by Conn.
type Link struct {
	Counters
	networkReceived, networkSent atomic.Int64
}

// Link returns the part of the link of this method.
func (l *Ledger) Link(method string) *Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.links[method] == nil {
		if l.links == nil {
			l.links = map[string]*Link{}
		}
		l.links[method] = &Link{}
	}
	return l.links[method]
}

// Sums is what was counted so far by method.
func (l *Ledger) Sums() map[string]Sums {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]Sums, len(l.links))
	for method, link := range l.links {
		all[method] = link.Sums().WithOverhead(Sum{link.networkReceived.Load(), link.networkSent.Load()})
	}
	return all
}

// Conn counts what goes over a connection of the link.
func (l *Link) Conn(c net.Conn) net.Conn { return &conn{c, l} }

// Noted counts notes of a parked link: bytes that are not of a connection.
func (l *Link) Noted(received, sent int) {
	l.networkReceived.Add(int64(received))
	l.networkSent.Add(int64(sent))
}

type conn struct {
	net.Conn
	link *Link
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.link.networkReceived.Add(int64(n))
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.link.networkSent.Add(int64(n))
	return n, err
}

// Report is what the server was told of a ledger over one connection. The zero value is one that was told
// nothing. It is for one goroutine.
type Report struct{ told map[string]Sums }

// Changes returns what the server should be told, and counts it as told: all at first, later what has grown.
func (r *Report) Changes(l *Ledger) (changes []*edgeapi.LinkTraffic) {
	if r.told == nil {
		r.told = map[string]Sums{}
	}
	for method, sums := range l.Sums() {
		told := r.told[method]
		for _, kind := range Kinds() {
			now, before := sums[kind], told[kind]
			grown := now.Received + now.Sent - before.Received - before.Sent
			if grown <= 0 || before != (Sum{}) && grown < reportStep {
				continue
			}
			told[kind] = now
			changes = append(changes, &edgeapi.LinkTraffic{
				Method: method, Kind: kind, Received: uint64(now.Received), Sent: uint64(now.Sent),
			})
		}
		r.told[method] = told
	}
	return changes
}

// Merge returns what a device has counted, given what it said before and what it says now, in the order of
// methods and kinds. What is not of a method given, or of an unknown kind, is left out. Neither argument is modified.
func Merge(before, changes []*edgeapi.LinkTraffic, methods []string) []*edgeapi.LinkTraffic {
	if len(changes) == 0 {
		return before
	}
	type key struct {
		method string
		kind   edgeapi.TrafficKind
	}
	all := map[key]*edgeapi.LinkTraffic{}
	for _, list := range [][]*edgeapi.LinkTraffic{before, changes} {
		for _, t := range list {
			if slices.Contains(methods, t.GetMethod()) && Name(t.GetKind()) != "" {
				all[key{t.GetMethod(), t.GetKind()}] = t
			}
		}
	}
	merged := make([]*edgeapi.LinkTraffic, 0, len(all))
	for _, t := range all {
		merged = append(merged, t)
	}
	slices.SortFunc(merged, func(a, b *edgeapi.LinkTraffic) int {
		if c := strings.Compare(a.GetMethod(), b.GetMethod()); c != 0 {
			return c
		}
		return int(a.GetKind() - b.GetKind())
	})
	return merged
}
