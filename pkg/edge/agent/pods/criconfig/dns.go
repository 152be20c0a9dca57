package criconfig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	netutils "k8s.io/utils/net"
)

// Limits of what resolvers take, as the kubelet enforces them.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
	maxDomainChars = 253
)

// podDNS returns the pod's resolver configuration. The warnings are for the user: what had to be left out.
func podDNS(pod *v1.Pod, node *Node) (config *runtimeapi.DNSConfig, warnings []string, err error) {
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = v1.DNSDefault
	}
	config = &runtimeapi.DNSConfig{}
	switch {
	case policy == v1.DNSNone:
	case policy != v1.DNSDefault && node.PodDNS != nil && len(node.PodDNS.Nameservers) > 0:
		mergeDNS(config, node.PodDNS)
	default:
		if config, err = hostDNS(pod, node); err != nil {
			return nil, nil, err
		}
	}
	if pod.Spec.DNSConfig != nil {
		mergeDNS(config, pod.Spec.DNSConfig)
	}
	return config, fitLimits(config), nil
}

// mergeDNS adds what a pod says to what it has by its policy.
func mergeDNS(config *runtimeapi.DNSConfig, more *v1.PodDNSConfig) {
	config.Servers = union(config.Servers, more.Nameservers)
	config.Searches = union(config.Searches, more.Searches)
	for _, option := range more.Options {
		value := option.Name
		if option.Value != nil && *option.Value != "" {
			value += ":" + *option.Value
		}
		// The same option, whatever its value, is overridden.
		config.Options = slices.DeleteFunc(config.Options, func(have string) bool {
			name, _, _ := strings.Cut(have, ":")
			return name == option.Name
		})
		config.Options = append(config.Options, value)
	}
}

func union(have, more []string) []string {
	for _, s := range more {
		if !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	return have
}

// hostDNS reads the device's resolv.conf, or that of the servers behind it: one on the loopback does not
// answer in a pod's own network. A device without one has none, unless its owner has named the file.
func hostDNS(pod *v1.Pod, node *Node) (*runtimeapi.DNSConfig, error) {
	if node.ResolvConf == "" {
		return loopbackDNS(node), nil
	}
	own, err := readResolvConf(node.ResolvConf)
	if errors.Is(err, os.ErrNotExist) && node.UpstreamResolvConf != "" {
		return loopbackDNS(node), nil
	}
	if err != nil || node.UpstreamResolvConf == "" || pod.Spec.HostNetwork || !allLoopback(own.Servers) {
		return own, err
	}
	upstream, err := readResolvConf(node.UpstreamResolvConf)
	if errors.Is(err, os.ErrNotExist) || (err == nil && allLoopback(upstream.Servers)) {
		return own, nil
	}
	return upstream, err
}

// loopbackDNS is where resolvers ask if nothing is said. It has to be said: in place of nothing containerd copies
// the device's file, and fails if that is not there.
func loopbackDNS(node *Node) *runtimeapi.DNSConfig {
	config := &runtimeapi.DNSConfig{}
	for _, ip := range node.HostIPs {
		if netutils.IsIPv6String(ip) {
			config.Servers = union(config.Servers, []string{"::1"})
		} else {
			config.Servers = union(config.Servers, []string{"127.0.0.1"})
		}
	}
	if len(config.Servers) == 0 {
		config.Servers = []string{"127.0.0.1"}
	}
	return config
}

// allLoopback tells whether no server answers but on the device itself, as it is without any: resolvers try
// the loopback then.
func allLoopback(servers []string) bool {
	return !slices.ContainsFunc(servers, func(server string) bool {
		addr, err := netip.ParseAddr(server)
		return err != nil || !addr.Unmap().IsLoopback()
	})
}

func readResolvConf(path string) (*runtimeapi.DNSConfig, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("resolver of the device: %w", err)
	}
	config := &runtimeapi.DNSConfig{}
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			config.Servers = append(config.Servers, fields[1])
		case "search", "domain":
			config.Searches = searchList(fields[1:])
		case "options":
			config.Options = append(config.Options, fields[1:]...)
		}
	}
	return config, nil
}

// searchList leaves out the root, with which musl finds no name at all, and the dot at the end of domains, with
// which the same one would count twice.
func searchList(domains []string) (list []string) {
	for _, domain := range domains {
		if domain != "." {
			list = append(list, strings.TrimSuffix(domain, "."))
		}
	}
	return list
}

func fitLimits(config *runtimeapi.DNSConfig) (warnings []string) {
	if len(config.Servers) > maxNameservers {
		config.Servers = config.Servers[:maxNameservers]
		warnings = append(warnings, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+
			strings.Join(config.Servers, " "))
	}
	before := len(config.Searches)
	config.Searches = slices.DeleteFunc(config.Searches, func(domain string) bool { return len(domain) > maxDomainChars })
	if len(config.Searches) > maxSearches {
		config.Searches = config.Searches[:maxSearches]
	}
	for len(strings.Join(config.Searches, " ")) > maxSearchChars {
		config.Searches = config.Searches[:len(config.Searches)-1]
	}
	if len(config.Searches) < before {
		warnings = append(warnings, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+
			strings.Join(config.Searches, " "))
	}
	return warnings
}
