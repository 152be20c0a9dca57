package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
	"k8s.io/kubectl/pkg/util/term"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	edgescheme "arhat.dev/aranya/pkg/generated/clientset/versioned/scheme"
	aranyaclient "arhat.dev/aranya/pkg/generated/clientset/versioned/typed/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/version"
)

// completionLimit bounds how many devices a completion lists.
const completionLimit = 500

// NewCommand returns the command "kubectl-edge".
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true)
	c := &client{flags: flags, IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "kubectl-edge",
		Short: "Work on edge devices: exec, attach, cp, logs, port-forward, proxy, top, token",
		Long: `Work on edge devices as kubectl works on pods.

Devices are EdgeDevices in the current namespace ("kubectl get edgedevices"), given as NAME or edgedevice/NAME. With --pod, a command
works on a pod of the device.`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl edge"},
	}
	flags.AddFlags(cmd.PersistentFlags())
	addVerbosity(cmd.PersistentFlags())
	cmd.SetIn(streams.In)
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.AddCommand(
		newExecCommand(c),
		newAttachCommand(c),
		newCopyCommand(c),
		newLogsCommand(c),
		newPortForwardCommand(c),
		newProxyCommand(c),
		newTokenCommand(c),
		newTopCommand(c),
	)
	completeFlags(cmd, flags)
	return cmd
}

// addVerbosity adds kubectl's flag for the level of its log, and no other flag of the log.
func addVerbosity(to *pflag.FlagSet) {
	all := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(all)
	to.AddGoFlag(all.Lookup("v"))
}

// completeFlags has no flag complete the names of files that does not take one.
func completeFlags(root *cobra.Command, flags *genericclioptions.ConfigFlags) {
	completion.SetFactoryForCompletion(cmdutil.NewFactory(flags))
	byName := map[string]cobra.CompletionFunc{
		"pod": cobra.NoFileCompletions, "container": cobra.NoFileCompletions, "namespace": cobra.NoFileCompletions,
		"scheme": cobra.FixedCompletions([]string{"http", "https"}, cobra.ShellCompDirectiveNoFileComp),
	}
	for name, list := range map[string]func(string) []string{
		"context": completion.ListContextsInConfig, "cluster": completion.ListClustersInConfig, "user": completion.ListUsersInConfig,
	} {
		byName[name] = func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return list(toComplete), cobra.ShellCompDirectiveNoFileComp
		}
	}
	for _, cmd := range append(root.Commands(), root) {
		for name, complete := range byName {
			if cmd.PersistentFlags().Lookup(name) != nil || cmd.LocalNonPersistentFlags().Lookup(name) != nil {
				_ = cmd.RegisterFlagCompletionFunc(name, complete) // fails only if the flag has one already
			}
		}
	}
}

// Run executes the command and returns its exit code: that of the remote command, if one ran.
func Run(cmd *cobra.Command, errOut io.Writer) int {
	err := cmd.Execute()
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		// As kubectl does: a remote exit code is not an error of ours, but is said.
		fmt.Fprintf(errOut, "command terminated with exit code %d\n", exit.ExitStatus())
		return exit.ExitStatus()
	default:
		message, ok := cmdutil.StandardErrorMessage(err)
		if !ok {
			message = "error: " + strings.TrimPrefix(err.Error(), "error: ")
		}
		fmt.Fprintln(errOut, message)
		return 1
	}
}

// client is what the commands share: where the cluster is and where the terminal is.
type client struct {
	flags *genericclioptions.ConfigFlags
	genericiooptions.IOStreams
}

func (c *client) namespace() (string, error) {
	namespace, _, err := c.flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

func (c *client) config() (*rest.Config, error) {
	config, err := c.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	// A copy: kubectl's executors expect no group and version in it.
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NewWarningWriter(c.ErrOut, rest.WarningWriterOptions{Deduplicate: true, Color: term.AllowsColorOutput(c.ErrOut)})
	return config, nil
}

func (c *client) clientset() (versioned.Interface, error) {
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	config.ContentType = runtime.ContentTypeJSON // as kubectl; an older server would refuse protobuf
	return versioned.NewForConfig(config)
}

// api is the client of aranya's API, and the namespace that the user means.
func (c *client) api() (client aranyaclient.AranyaV1alpha1Interface, namespace string, err error) {
	if namespace, err = c.namespace(); err != nil {
		return nil, "", err
	}
	clientset, err := c.clientset()
	if err != nil {
		return nil, "", err
	}
	return clientset.AranyaV1alpha1(), namespace, nil
}

// edgeDevices is the client of the EdgeDevices in the namespace that the user means.
func (c *client) edgeDevices() (aranyaclient.EdgeDeviceInterface, error) {
	client, namespace, err := c.api()
	if err != nil {
		return nil, err
	}
	return client.EdgeDevices(namespace), nil
}

// deviceName is the name of the device that a user means by NAME or, as with kubectl, by TYPE/NAME.
func deviceName(arg string) (string, error) {
	kind, name, typed := strings.Cut(arg, "/")
	if !typed {
		kind, name = "edgedevice", arg
	}
	kind, group, qualified := strings.Cut(strings.ToLower(kind), ".")
	isDevice := slices.Contains([]string{"edgedevice", "edgedevices", "ed"}, kind) &&
		(!qualified || group == v1alpha1.GroupName || group == v1alpha1.SchemeGroupVersion.Version+"."+v1alpha1.GroupName)
	if !isDevice || name == "" || len(content.IsPathSegmentName(name)) > 0 {
		return "", fmt.Errorf("%q is not a device: give the name of an EdgeDevice, as NAME or edgedevice/NAME", arg)
	}
	return name, nil
}

// subresource is a request for a subresource of a device, with options as its query.
func (c *client) subresource(verb, device, name string, options runtime.Object) (*rest.Request, error) {
	device, err := deviceName(device)
	if err != nil {
		return nil, err
	}
	client, namespace, err := c.api()
	if err != nil {
		return nil, err
	}
	return client.RESTClient().Verb(verb).
		Namespace(namespace).
		Resource("edgedevices").
		Name(device).
		SubResource(name).
		VersionedParams(options, edgescheme.ParameterCodec), nil
}

func (c *client) post(device, name string, options runtime.Object) (*rest.Request, error) {
	return c.subresource(http.MethodPost, device, name, options)
}

// completeDevices completes the first argument with the names of devices.
func (c *client) completeDevices(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.deviceNames(cmd, args, toComplete)
}

// deviceNames lists the devices whose name begins with toComplete and that are not in args.
func (c *client) deviceNames(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	client, err := c.edgeDevices()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	devices, err := client.List(cmd.Context(), metav1.ListOptions{Limit: completionLimit})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	given := make(map[string]bool, len(args))
	for _, arg := range args {
		given[arg] = true
	}
	var names []string
	for i := range devices.Items {
		if name := devices.Items[i].Name; strings.HasPrefix(name, toComplete) && !given[name] {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// podFlags choose a container on a device instead of the device's host.
type podFlags struct {
	pod, container string
}

func (p *podFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.pod, "pod", "", "Pod on the device, as NAME or NAMESPACE/NAME. The device's host if empty.")
	cmd.Flags().StringVarP(&p.container, "container", "c", "", "Container of the pod. If omitted, the pod's default container.")
}

func (p *podFlags) validate() error {
	if p.container != "" && p.pod == "" {
		return errors.New("--container needs --pod: the device's host has no containers of its own")
	}
	return nil
}
