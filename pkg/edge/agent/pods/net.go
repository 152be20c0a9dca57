package pods

import "net/netip"

// ipv6First tells whether the device prefers IPv6: pods' addresses are given in the same order.
func ipv6First(hostIPs []string) bool {
	if len(hostIPs) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(hostIPs[0])
	return err == nil && addr.Is6() && !addr.Is4In6()
}
