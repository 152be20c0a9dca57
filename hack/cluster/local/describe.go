package local

import (
	"fmt"
	"io"
	"path/filepath"
)

// SampleImage is the image that artifacts/samples/workload.yaml runs. "make up" puts one of that name,
// made on the spot, into the container runtime of each device, as there may be no registry to pull it
// from.
const SampleImage = "docker.io/library/busybox:stable"

// Describe tells a person what is up and what to try.
func (c *Cluster) Describe(w io.Writer) {
	s := c.State()
	_, _ = fmt.Fprintf(w, "\nThe cluster in %s is up with %d device(s), runtime %s, link %s.\n", c.Dir, len(s.Devices), s.Runtime, s.Link)
	switch {
	case s.Network == nil:
		_, _ = fmt.Fprint(w, "Without root its devices are plain processes that share this machine's network.\n")
	case !s.Network.Firewall:
		_, _ = fmt.Fprint(w, "Each device has a network namespace of its own with a route to the gateway's address only.\n"+
			"iptables is not installed, so connections from this machine to a device are not blocked.\n")
	default:
		_, _ = fmt.Fprint(w, "Each device has a network namespace of its own and can only dial out to the gateway or, with LINK=mqtt, to the broker.\n")
	}
	sample := ""
	if s.Runtime == RuntimeContainerd {
		_, _ = fmt.Fprintf(w, "Their containerd has the image %s, made of this machine's busybox.\n", SampleImage)
		sample = "\n  kubectl apply -f " + filepath.Join(s.Source, "artifacts", "samples", "workload.yaml")
	}
	_, _ = fmt.Fprintf(w, `
Try:
  export KUBECONFIG=%[1]s PATH=%[2]s:$PATH
  kubectl get nodes
  kubectl -n %[3]s get edgedevices -o wide
  kubectl edge -n %[3]s exec device-1 -it -- sh%[7]s

Logs: %[4]s and %[5]s. To stop it: make down DIR=%[6]s
`, c.Kubeconfig(), c.path("bin"), Namespace, c.path("logs"), c.path("devices", "*", "logs"), c.Dir, sample)
}
