package cli

import (
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/pager"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

const unknown = "<unknown>"

func newTopCommand(c *client) *cobra.Command {
	var selector string
	var allNamespaces, noHeaders, traffic bool
	cmd := &cobra.Command{
		Use:   "top [DEVICE...] [-l SELECTOR] [-A] [--traffic]",
		Short: "Show the CPU, memory and link usage of devices",
		Long: `Show the CPU and memory that devices use, and what their links carry.

CPU and memory are what the device said when it last answered a heartbeat. IN and OUT count the bytes
of the present link, from and to the device.

With --traffic, show what the bytes were for instead, for each link that the device has used. TOTAL-IN and
TOTAL-OUT are what the device itself has counted since its agent started, as of its last answer to a heartbeat.`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     c.deviceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (selector != "" || allNamespaces) {
				return fmt.Errorf("names of devices cannot be given together with --selector or --all-namespaces")
			}
			devices, err := c.devices(cmd, args, selector, allNamespaces)
			if err != nil {
				return err
			}
			if len(devices) == 0 {
				_, err := fmt.Fprintln(c.ErrOut, "No devices found")
				return err
			}
			if traffic {
				return printTraffic(c.Out, devices, allNamespaces, noHeaders)
			}
			return printTop(c.Out, devices, allNamespaces, noHeaders)
		},
	}
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "Selector (label query) to filter on")
	cmd.Flags().BoolVarP(&allNamespaces, "all-namespaces", "A", false, "If present, list the devices across all namespaces")
	cmd.Flags().BoolVar(&traffic, "traffic", false, "If present, show what the links carry by link and kind of traffic")
	cmd.Flags().BoolVar(&noHeaders, "no-headers", false, "If present, print output without headers")
	return cmd
}

// devices gets the named devices, or lists them all.
func (c *client) devices(cmd *cobra.Command, names []string, selector string, allNamespaces bool) ([]v1alpha1.EdgeDevice, error) {
	api, namespace, err := c.api()
	if err != nil {
		return nil, err
	}
	if allNamespaces {
		namespace = metav1.NamespaceAll
	}
	client := api.EdgeDevices(namespace)
	var devices []v1alpha1.EdgeDevice
	for _, name := range names {
		if name, err = deviceName(name); err != nil {
			return nil, err
		}
		device, err := client.Get(cmd.Context(), name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		devices = append(devices, *device)
	}
	if len(names) == 0 {
		// It lists anew, in one piece, if a page comes too late.
		list, _, err := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
			return client.List(cmd.Context(), options)
		})).List(cmd.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, err
		}
		if err := meta.EachListItem(list, func(device runtime.Object) error {
			devices = append(devices, *device.(*v1alpha1.EdgeDevice))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	sort.Slice(devices, func(i, j int) bool {
		a, b := &devices[i], &devices[j]
		if a.Namespace != b.Namespace {
			return a.Namespace < b.Namespace
		}
		return a.Name < b.Name
	})
	return devices, nil
}

func printTop(out io.Writer, devices []v1alpha1.EdgeDevice, withNamespace, noHeaders bool) error {
	w := printers.GetNewTabWriter(out)
	if !noHeaders {
		if withNamespace {
			fmt.Fprint(w, "NAMESPACE\t")
		}
		fmt.Fprintln(w, "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\tLINK\tROUND-TRIP\tIN\tOUT")
	}
	for i := range devices {
		d := &devices[i]
		if withNamespace {
			fmt.Fprintf(w, "%s\t", d.Namespace)
		}
		cpu, cpuShare := cpuUsage(d)
		memory, memoryShare := memoryUsage(d)
		method, roundTrip, in, sent := linkUsage(d)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, cpu, cpuShare, memory, memoryShare, method, roundTrip, in, sent)
	}
	return w.Flush()
}

func cpuUsage(d *v1alpha1.EdgeDevice) (used, share string) {
	q, ok := d.Status.Usage[corev1.ResourceCPU]
	if !ok {
		return unknown, unknown
	}
	return fmt.Sprintf("%dm", q.MilliValue()), percent(q.MilliValue(), allocatable(d, corev1.ResourceCPU, true))
}

func memoryUsage(d *v1alpha1.EdgeDevice) (used, share string) {
	q, ok := d.Status.Usage[corev1.ResourceMemory]
	if !ok {
		return unknown, unknown
	}
	return bytesText(q.Value()), percent(q.Value(), allocatable(d, corev1.ResourceMemory, false))
}

func linkUsage(d *v1alpha1.EdgeDevice) (method, roundTrip, in, out string) {
	link := d.Status.Link
	if link == nil {
		return "<none>", unknown, unknown, unknown
	}
	roundTrip = unknown
	if link.RoundTrip != nil {
		roundTrip = link.RoundTrip.Round(10 * time.Microsecond).String()
	}
	return link.Method, roundTrip, bytesText(link.BytesIn), bytesText(link.BytesOut)
}

func allocatable(d *v1alpha1.EdgeDevice, name corev1.ResourceName, milli bool) int64 {
	if d.Status.Device == nil {
		return 0
	}
	q := d.Status.Device.Allocatable[name]
	if milli {
		return q.MilliValue()
	}
	return q.Value()
}

func percent(used, of int64) string {
	if of <= 0 {
		return unknown
	}
	return fmt.Sprintf("%d%%", used*100/of)
}

// bytesText is a number of bytes in the unit that suits it, as kubectl top prints memory.
func bytesText(n int64) string {
	const ki, mi = 1 << 10, 1 << 20
	switch {
	case n >= 10*mi:
		return fmt.Sprintf("%dMi", n/mi)
	case n >= 10*ki:
		return fmt.Sprintf("%dKi", n/ki)
	default:
		return fmt.Sprintf("%d", n)
	}
}
