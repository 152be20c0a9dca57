package cli

import (
	"errors"
	"net/http"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/cmd/portforward"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func newPortForwardCommand(c *client) *cobra.Command {
	var addresses []string
	var pod, host string
	cmd := &cobra.Command{
		Use:   "port-forward DEVICE [--pod POD | --host HOST] [LOCAL_PORT:]REMOTE_PORT [...[LOCAL_PORT_N:]REMOTE_PORT_N]",
		Short: "Forward local ports to a device, to a pod on it, or to a host on its network",
		Example: `  # Port 8080 of the device's loopback at local port 8080
  kubectl edge port-forward device-1 8080

  # A camera on the device's network, if the device's policy allows it
  kubectl edge port-forward device-1 --host 192.168.1.20 8554:554`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) < 2:
				return errors.New("expected the name of a device and at least one port; see 'kubectl edge port-forward -h'")
			case pod != "" && host != "":
				return errors.New("at most one of --pod and --host may be used")
			}
			request, err := c.post(args[0], "portforward", &v1alpha1.EdgeDevicePortForwardOptions{Pod: pod, Host: host})
			if err != nil {
				return err
			}
			o := portforward.NewDefaultPortForwardOptions(c.IOStreams)
			if o.Config, err = c.config(); err != nil {
				return err
			}
			o.Address, o.Ports = addresses, args[1:]
			o.StopChannel, o.ReadyChannel = make(chan struct{}), make(chan struct{})

			interrupt := make(chan os.Signal, 1)
			signal.Notify(interrupt, os.Interrupt)
			defer signal.Stop(interrupt)
			done := make(chan struct{})
			defer close(done)
			go func() {
				select {
				case <-interrupt:
					close(o.StopChannel)
				case <-done:
				}
			}()
			return o.PortForwarder.ForwardPorts(http.MethodPost, request.URL(), *o)
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "address", []string{"localhost"}, "Addresses to listen on (comma separated). Only accepts IP addresses or localhost as a value.")
	cmd.Flags().StringVar(&pod, "pod", "", "Pod on the device, as NAME or NAMESPACE/NAME")
	cmd.Flags().StringVar(&host, "host", "", "Host on the device's network, which the device's policy must allow")
	return cmd
}
