package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/containerd"
)

// openPods lets this machine reach the pods of the device. Devices of clusters on one machine are closed to
// it, as they would be behind the router of an access network. Upstream's tests have kube-apiserver call
// pods by their addresses, which asks for a network of pods that a cluster of edge devices need not have.
// What is made here goes with the device's network.
func openPods(ctx context.Context, state local.State) error {
	if state.Network == nil {
		return errors.New("the device has no network of its own: run this as root")
	}
	device, gateway := state.Devices[0], state.Network.Gateway.String()
	route := exec.CommandContext(ctx, "ip", "route", "add", containerd.DefaultSubnet,
		"via", device.Address.String(), "dev", device.HostInterface, "src", gateway, "onlink")
	if out, err := route.CombinedOutput(); err != nil {
		return fmt.Errorf("route %s to the device: %w: %s", containerd.DefaultSubnet, err, bytes.TrimSpace(out))
	}
	if !state.Network.Firewall {
		return nil
	}
	for _, rule := range []string{
		"INPUT -s " + gateway,
		"OUTPUT -d " + gateway + " -m conntrack --ctstate ESTABLISHED",
		"FORWARD -s " + gateway + " -d " + containerd.DefaultSubnet,
		"FORWARD -s " + containerd.DefaultSubnet + " -d " + gateway + " -m conntrack --ctstate ESTABLISHED",
	} {
		args := append([]string{"netns", "exec", device.NetworkNamespace, "iptables", "-I"}, strings.Fields(rule+" -j ACCEPT")...)
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("let the device's packet filter pass %q: %w: %s", rule, err, bytes.TrimSpace(out))
		}
	}
	return nil
}
