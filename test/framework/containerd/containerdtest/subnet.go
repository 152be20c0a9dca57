package containerdtest

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// widest is the widest network that is kept clear of. One that is wider, as of a VPN to a whole company, leaves
// no room, and gives way: routes to a test's pods are more specific.
const widest = 16

// freeSubnet returns one of 10.98.0.0/24 to 10.98.255.0/24 that is neither taken nor known to this machine.
func freeSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	used, err := knownNetworks()
	if err != nil {
		return netip.Prefix{}, err
	}
	used = append(used, taken...)
	first := rand.N(256)
	for i := range 256 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, byte(first + i), 0}), 24)
		if !slices.ContainsFunc(used, subnet.Overlaps) {
			return subnet, nil
		}
	}
	return netip.Prefix{}, errors.New("all of 10.98.0.0/16 is in use on this machine: see \"ip route\"")
}

// knownNetworks returns those of this machine's interfaces and routes.
func knownNetworks() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var known []netip.Prefix
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			known = append(known, p.Masked())
		}
	}
	routes, err := readRoutes("/proc/net/route")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(append(known, routes...), func(p netip.Prefix) bool { return p.Bits() < widest }), nil
}

// readRoutes reads the kernel's table of IPv4 routes.
func readRoutes(path string) ([]netip.Prefix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var routes []netip.Prefix
	lines := bufio.NewScanner(f)
	lines.Scan() // the names of the columns
	for lines.Scan() {
		// Interface, destination, gateway, flags, references, uses, metric, mask.
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 {
			return nil, fmt.Errorf("%s: a line of %d columns", path, len(fields))
		}
		destination, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(destination) != 4 || len(mask) != 4 {
			return nil, fmt.Errorf("%s: no address: %q", path, lines.Text())
		}
		// Each is a number in the order of this machine's bytes.
		var address [4]byte
		binary.NativeEndian.PutUint32(address[:], binary.BigEndian.Uint32(destination))
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(address), bits.OnesCount32(binary.BigEndian.Uint32(mask))))
	}
	return routes, lines.Err()
}
