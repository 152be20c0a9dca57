package local

import (
	"fmt"
	"io"
)

// Describe tells a person what is up and what to try.
func (c *Cluster) Describe(w io.Writer) {
	s := c.State()
	_, _ = fmt.Fprintf(w, "\nThe cluster in %s is up with %d device(s), runtime %s.\n", c.Dir, len(s.Devices), s.Runtime)
	switch {
	case s.Network == nil:
		_, _ = fmt.Fprint(w, "Without root its devices are plain processes that share this machine's network.\n")
	case !s.Network.Firewall:
		_, _ = fmt.Fprint(w, "Each device has a network namespace of its own with a route to the gateway's address only.\n"+
			"iptables is not installed, so connections from this machine to a device are not blocked.\n")
	default:
		_, _ = fmt.Fprint(w, "Each device has a network namespace of its own and can only dial out to the gateway.\n")
	}
	_, _ = fmt.Fprintf(w, `
Try:
  export KUBECONFIG=%[1]s PATH=%[2]s:$PATH
  kubectl get nodes
  kubectl -n %[3]s get edgedevices -o wide
  kubectl edge -n %[3]s exec device-1 -it -- sh

Logs: %[4]s and %[5]s. To stop it: make down DIR=%[6]s
`, c.Kubeconfig(), c.path("bin"), Namespace, c.path("logs"), c.path("devices", "*", "logs"), c.Dir)
}
