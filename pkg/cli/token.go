package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgescheme "arhat.dev/aranya/pkg/generated/clientset/versioned/scheme"
)

func newTokenCommand(c *client) *cobra.Command {
	var ttl time.Duration
	var tokenOnly bool
	print := genericclioptions.NewPrintFlags("").WithTypeSetter(edgescheme.Scheme)
	cmd := &cobra.Command{
		Use:   "token DEVICE",
		Short: "Create a one-time token with which a device's agent enrols",
		Long: `Create a one-time token with which a device's agent enrols as the EdgeDevice.

The token is kept nowhere: it is shown once and cannot be read again. When a device enrols with it, a
certificate that another machine holds for the same EdgeDevice stops working, and so do all tokens that
were issued for the EdgeDevice until then.`,
		Example: `  # Print how to join the device
  kubectl edge token device-1

  # Only the token, for a script, valid for ten minutes
  kubectl edge token device-1 --ttl 10m --token-only`,
		DisableFlagsInUseLine: true,
		Args:                  oneDevice,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			device, err := deviceName(args[0])
			if err != nil {
				return err
			}
			var printer printers.ResourcePrinter
			if *print.OutputFormat != "" || *print.TemplatePrinterFlags.TemplateArgument != "" {
				if printer, err = print.ToPrinter(); err != nil { // before there is a token that nobody gets to see
					return err
				}
			}
			token, err := c.createToken(cmd, device, ttl)
			if err != nil {
				return err
			}
			if printer != nil {
				return printer.PrintObj(token, c.Out)
			}
			if tokenOnly {
				_, err = fmt.Fprintln(c.Out, token.Status.Token)
				return err
			}
			server := token.Status.Server
			if server == "" {
				server = "HOST:PORT"
			}
			_, err = fmt.Fprintf(c.Out, "# Valid until %s, for one use. On the device:\narhat join --server %s --token %s%s\n",
				token.Status.ExpirationTimestamp.Format(time.RFC3339), server, token.Status.Token, c.brokerFlags(cmd, device, server))
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "How long the token is valid, from 1m to 168h")
	cmd.Flags().BoolVar(&tokenOnly, "token-only", false, "Print nothing but the token")
	print.AddFlags(cmd)
	for _, flag := range []string{"output", "template"} {
		cmd.MarkFlagsMutuallyExclusive("token-only", flag)
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(print.AllowedFormats(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}

func (c *client) createToken(cmd *cobra.Command, device string, ttl time.Duration) (*v1alpha1.EnrollmentToken, error) {
	devices, err := c.edgeDevices()
	if err != nil {
		return nil, err
	}
	seconds := int64(ttl / time.Second)
	return devices.CreateToken(cmd.Context(), device,
		&v1alpha1.EnrollmentToken{Spec: v1alpha1.EnrollmentTokenSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
}

// brokerFlags says under which topics a device meets aranya at its broker. It must not fail: the token is made, and is
// not shown again.
func (c *client) brokerFlags(cmd *cobra.Command, device, server string) string {
	if !strings.HasPrefix(server, "mqtt") {
		return ""
	}
	mqtt, err := c.mqttConfig(cmd, device)
	if err != nil {
		fmt.Fprintf(c.ErrOut, "Warning: add --mqtt-message-namespace if spec.connectivity.mqttConfig.messageNamespace is not the default: %v\n", err)
		return ""
	}
	if mqtt == nil { // changed since
		return ""
	}
	return " --mqtt-message-namespace '" + strings.ReplaceAll(mqtt.MessageNamespace, "'", `'\''`) + "'"
}

func (c *client) mqttConfig(cmd *cobra.Command, device string) (*v1alpha1.MQTTConfig, error) {
	devices, err := c.edgeDevices()
	if err != nil {
		return nil, err
	}
	found, err := devices.Get(cmd.Context(), device, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return found.Spec.Connectivity.MQTTConfig, nil
}
