package local

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Devices live in the range that carriers use for customers behind their NAT. Each cluster takes a
// /20 of it.
var devicesRange = netip.MustParsePrefix("100.64.0.0/10")

const (
	clusterBits = 20
	netnsDir    = "/run/netns"
	deviceLink  = "eth0"
)

// chooseNetwork finds a range that no interface or route of this machine uses. The first choice
// depends on the cluster's id alone, so that it stays the same.
func chooseNetwork(id string) (*Network, error) {
	var seed int
	if _, err := fmt.Sscanf(id, "%x", &seed); err != nil {
		return nil, err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the routes of this machine: %w", err)
	}
	ranges := 1 << (clusterBits - devicesRange.Bits())
	for i := range ranges {
		offset := uint32((seed+i)%ranges) << (32 - clusterBits)
		cidr := netip.PrefixFrom(add(devicesRange.Addr(), offset), clusterBits)
		if !inUse(cidr, routes) {
			_, err := exec.LookPath("iptables-restore")
			return &Network{CIDR: cidr, Gateway: add(cidr.Addr(), 1), Firewall: err == nil}, nil
		}
	}
	return nil, fmt.Errorf("every range within %s is used by this machine", devicesRange)
}

func inUse(cidr netip.Prefix, routes []netlink.Route) bool {
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		if ok && bits > 0 && cidr.Overlaps(netip.PrefixFrom(addr.Unmap(), bits)) {
			return true
		}
	}
	return false
}

func add(addr netip.Addr, n uint32) netip.Addr {
	b := addr.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]) + n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// nameDevice gives a device its address and the names of what it has on this machine.
func (n *Network) nameDevice(id string, d *Device) {
	d.Address = add(n.CIDR.Addr(), uint32(d.Index)+1)
	d.HostInterface = fmt.Sprintf("ar%s-%d", id, d.Index)
	d.NetworkNamespace = fmt.Sprintf("aranya-%s-%s", id, d.Name)
}

// connect joins the network namespace of process pid with this machine by a pair of interfaces, and
// makes the namespace known under its name to "ip netns". There is no route from the device but to
// the gateway's address. With packet filters the device reaches nothing there but the gateway's port,
// and nothing on this side can open a connection to the device.
func (n *Network) connect(d *Device, pid, gatewayPort int) error {
	if err := publishNamespace(d.NetworkNamespace, pid); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = d.HostInterface
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: deviceLink, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the interface %s: %w", d.HostInterface, err)
	}
	host, err := netlink.LinkByName(d.HostInterface)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(host, &netlink.Addr{IPNet: hostNet(n.Gateway)}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", d.HostInterface, n.Gateway, err)
	}
	if !d.Unplugged {
		if err := plugIn(d, host); err != nil {
			return err
		}
	}
	return within(pid, func() error { return n.configureInside(d, gatewayPort) })
}

// plugIn brings this machine's end of the pair up, with the route to the device.
func plugIn(d *Device, host netlink.Link) error {
	if err := netlink.LinkSetUp(host); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: hostNet(d.Address), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("route %s to %s: %w", d.Address, d.HostInterface, err)
	}
	return nil
}

// configureInside runs in the device's network namespace.
func (n *Network) configureInside(d *Device, gatewayPort int) error {
	for _, name := range []string{"lo", deviceLink} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == deviceLink {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: hostNet(d.Address)}); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if name == deviceLink {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(n.Gateway), Scope: unix.RT_SCOPE_LINK}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route to the gateway: %w", err)
			}
		}
	}
	if !n.Firewall {
		return nil
	}
	rules := fmt.Sprintf(`*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i %[1]s -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -i %[1]s -j DROP
-A FORWARD -i %[1]s -j DROP
-A FORWARD -o %[1]s -j DROP
-A OUTPUT -o %[1]s -p tcp -d %[2]s --dport %[3]d -j ACCEPT
-A OUTPUT -o %[1]s -j DROP
COMMIT
`, deviceLink, n.Gateway, gatewayPort)
	cmd := exec.Command("iptables-restore")
	cmd.Stdin = bytes.NewBufferString(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables-restore for %s: %w: %s", d.Name, err, out)
	}
	return nil
}

// Listen listens on a TCP address of a device, from this process: on its loopback, for example.
func (c *Cluster) Listen(device, address string) (listener net.Listener, err error) {
	if c.State().Network == nil {
		return net.Listen("tcp", address)
	}
	err = within(c.supervisor(device).PID, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// within runs do on a thread that is in the network namespace of process pid.
func within(pid int, do func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with this goroutine and never runs others.
		runtime.LockOSThread()
		ns, err := netns.GetFromPid(pid)
		if err != nil {
			result <- err
			return
		}
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			result <- err
			return
		}
		result <- do()
	}()
	return <-result
}

// publishNamespace gives the network namespace of process pid a name as "ip netns add" would.
func publishNamespace(name string, pid int) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	if err := shareNames(); err != nil {
		return fmt.Errorf("make %s a mount point: %w", netnsDir, err)
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", pid), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name the network namespace %s: %w", name, err)
	}
	return nil
}

// shareNames makes the directory of names a mount point whose mounts are seen in all mount namespaces, as the first
// "ip netns add" after a boot does. If that came after us, it would hide the mounts of our names, which nobody could
// remove any more.
func shareNames() error {
	dir, err := os.Open(netnsDir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil { // as "ip netns add" does
		return err
	}
	share := func() error { return unix.Mount("", netnsDir, "", unix.MS_SHARED|unix.MS_REC, "") }
	if err := share(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(netnsDir, netnsDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return share()
}

// disconnect removes what connect made. It is no error if that is gone.
func disconnect(d *Device) error {
	var errs []error
	if d.HostInterface != "" {
		if link, err := netlink.LinkByName(d.HostInterface); err == nil {
			errs = append(errs, netlink.LinkDel(link))
		} else if _, missing := errors.AsType[netlink.LinkNotFoundError](err); !missing {
			errs = append(errs, err)
		}
	}
	if d.NetworkNamespace != "" {
		path := filepath.Join(netnsDir, d.NetworkNamespace)
		if _, err := os.Lstat(path); err == nil {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
			}
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
