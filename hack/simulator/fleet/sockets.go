package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// shutdown ends the connections that this process has over TCP to certain addresses, below all who use them: nobody
// takes leave, and the other end is told only that nothing more comes.
func shutdown(peers map[netip.AddrPort]bool) error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list the connections of this process: %w", err)
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		peer, err := unix.Getpeername(fd)
		if err != nil || !peers[addrPort(peer)] {
			continue // no connection, or another one
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("cut a connection to %s: %w", addrPort(peer), err)
		}
	}
	return nil
}

// addrPort is the zero value for what is not TCP over IP.
func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// resolve adds all that host:port stands for.
func resolve(ctx context.Context, hostPort string, into map[netip.AddrPort]bool) error {
	host, service, err := net.SplitHostPort(hostPort)
	if err != nil {
		return err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return err
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, a := range addresses {
		into[netip.AddrPortFrom(a.Unmap(), uint16(port))] = true
	}
	return err
}
