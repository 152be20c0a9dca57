package node

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// virtualInterfaces begin the names of interfaces that container networks make.
var virtualInterfaces = []string{"cni", "docker", "veth", "virbr", "br-", "flannel", "cali", "kube"}

// probes are addresses that are reserved for documentation: connecting a UDP socket to one sends
// nothing, but tells which source address the routes choose.
var probes = []string{"192.0.2.1:9", "[2001:db8::1]:9"}

// HostIPs are the addresses of this machine, at most one per family: the configured one, the sources
// of its default routes, or else the first of its interfaces.
func HostIPs(configured string) []string {
	var found []netip.Addr
	add := func(addr netip.Addr) {
		addr = addr.Unmap().WithZone("")
		if !addr.IsValid() || slices.ContainsFunc(found, func(f netip.Addr) bool { return f.Is4() == addr.Is4() }) {
			return
		}
		found = append(found, addr)
	}
	if addr, err := netip.ParseAddr(configured); err == nil {
		add(addr)
	}
	for _, probe := range probes {
		if addr, ok := source(probe); ok && usable(addr) {
			add(addr)
		}
	}
	if len(found) < len(probes) { // a family without a default route
		for _, addr := range interfaceAddrs() {
			add(addr)
		}
	}
	if len(found) == 0 {
		found = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})} // a device without any network
	}
	ips := make([]string, len(found))
	for i, addr := range found {
		ips[i] = addr.String()
	}
	return ips
}

func source(probe string) (netip.Addr, bool) {
	conn, err := net.Dial("udp", probe)
	if err != nil {
		return netip.Addr{}, false
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	addr := local.AddrPort().Addr()
	return addr, addr.IsValid()
}

// HasAddress says whether an interface of this machine has an address.
func HasAddress(address string) bool {
	wanted, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr() == wanted.Unmap()
	})
}

func usable(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && !addr.IsLoopback()
}

// interfaceAddrs are the usable addresses of the interfaces that are up, IPv4 first.
func interfaceAddrs() (addrs []netip.Addr) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range interfaces {
		virtual := slices.ContainsFunc(virtualInterfaces, func(p string) bool { return strings.HasPrefix(i.Name, p) })
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || virtual {
			continue
		}
		list, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && usable(prefix.Addr()) {
				addrs = append(addrs, prefix.Addr())
			}
		}
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs
}
