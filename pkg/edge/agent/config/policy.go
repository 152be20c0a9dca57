package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"strings"

	"k8s.io/utils/ptr"
)

// AllowsHostPath tells whether a hostPath volume may use a path. The path must be clean; symbolic
// links are the caller's to resolve.
func (l *Policy) AllowsHostPath(hostPath string) bool {
	for _, prefix := range l.HostPaths {
		if hostPath == prefix || prefix == "/" || strings.HasPrefix(hostPath, prefix+"/") {
			return true
		}
	}
	return false
}

// AllowsLogPath tells whether a log file may be read. The path must be clean and free of symbolic
// links.
func (l *Policy) AllowsLogPath(file string) bool {
	if !ptr.Deref(l.HostLog.Allow, false) || !filepath.IsAbs(file) {
		return false
	}
	for _, pattern := range l.HostLog.Paths {
		if matchPath(pattern, file) {
			return true
		}
	}
	return false
}

func matchPath(pattern, file string) bool {
	prefix, below := strings.CutSuffix(pattern, "/**")
	if !below {
		ok, err := path.Match(pattern, file)
		return ok && err == nil
	}
	if prefix == "" {
		return true
	}
	// Compare as many elements as the prefix has; at least one more must follow.
	n := strings.Count(prefix, "/")
	elements := strings.Split(file, "/")
	if len(elements) < n+2 {
		return false
	}
	ok, err := path.Match(prefix, strings.Join(elements[:n+1], "/"))
	return ok && err == nil
}

// AllowsUnit tells whether the journal of a unit may be read.
func (l *Policy) AllowsUnit(unit string) bool {
	if !ptr.Deref(l.HostLog.Allow, false) {
		return false
	}
	for _, pattern := range l.HostLog.Units {
		if ok, err := path.Match(pattern, unit); ok && err == nil {
			return true
		}
	}
	return false
}

// AllowsDestination tells whether a connection to a host of the device's network is allowed. The
// host is as the user wrote it, addr is the address that it will really be made to.
func (l *Policy) AllowsDestination(host string, addr netip.Addr, port uint16) bool {
	for _, text := range l.HostPortForward.AllowedDestinations {
		if d, err := parseDestination(text); err == nil && d.matches(host, addr, port) {
			return true
		}
	}
	return false
}

// destination is one entry of AllowedDestinations: a network or a host name, with one port or any.
type destination struct {
	prefix netip.Prefix
	host   string
	port   uint16 // 0: any
}

func (d destination) matches(host string, addr netip.Addr, port uint16) bool {
	if d.port != 0 && d.port != port {
		return false
	}
	if d.host != "" {
		return strings.EqualFold(strings.TrimSuffix(host, "."), d.host)
	}
	return d.prefix.Contains(addr.Unmap())
}

func parseDestination(text string) (destination, error) {
	d := destination{}
	host, port, err := splitDestination(text)
	if err != nil {
		return d, err
	}
	if port != "" && port != "*" {
		if d.port, err = parsePort(port); err != nil {
			return d, err
		}
	}
	if prefix, err := netip.ParsePrefix(host); err == nil {
		if prefix != prefix.Masked() {
			return d, fmt.Errorf("has bits set beyond its prefix length, did you mean %s?", prefix.Masked())
		}
		d.prefix = prefix
		return d, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		d.prefix = netip.PrefixFrom(addr, addr.BitLen())
		return d, nil
	}
	if host == "" || strings.ContainsAny(host, "/:*[] ") {
		return d, fmt.Errorf("must be a network, an address or a host name, each with an optional :port, for example \"10.1.0.0/16\", \"10.1.0.0/16:80\", \"[fd00::/8]:443\" or \"plc.local:502\"")
	}
	d.host = strings.ToLower(strings.TrimSuffix(host, "."))
	return d, nil
}

// splitDestination splits off the port, if there is one: a bare IPv6 address or network has colons
// but no port.
func splitDestination(text string) (host, port string, err error) {
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		return text[1 : len(text)-1], "", nil
	}
	if strings.HasPrefix(text, "[") || strings.Count(text, ":") == 1 {
		host, port, err = net.SplitHostPort(text)
		if err == nil && port == "" {
			err = fmt.Errorf("the port is missing after the colon")
		}
		return host, port, err
	}
	return text, "", nil
}
