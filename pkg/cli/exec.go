package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubectl/pkg/cmd/exec"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"
	"k8s.io/kubectl/pkg/util/term"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// terminalFlags are the flags of exec and attach that say what is connected.
type terminalFlags struct {
	stdin, tty, quiet bool
}

func (t *terminalFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&t.stdin, "stdin", "i", false, "Pass stdin to the device")
	cmd.Flags().BoolVarP(&t.tty, "tty", "t", false, "Stdin is a TTY")
	cmd.Flags().BoolVarP(&t.quiet, "quiet", "q", false, "Only print output from the remote session")
}

// session connects the terminal with a subresource. The options are made once it is known whether
// there is a terminal.
func (c *client) session(device, name string, flags terminalFlags, options func(o exec.StreamOptions) runtime.Object) error {
	o := exec.StreamOptions{Stdin: flags.stdin, TTY: flags.tty, Quiet: flags.quiet, IOStreams: c.IOStreams}
	tty := o.SetupTTY()
	var sizes remotecommand.TerminalSizeQueue
	if tty.Raw {
		sizes = sizeQueue{tty.MonitorSize(tty.GetSize())}
		// A terminal has one output; the server refuses stderr beside a tty.
		o.ErrOut = nil
	}
	request, err := c.post(device, name, options(o))
	if err != nil {
		return err
	}
	config, err := c.config()
	if err != nil {
		return err
	}
	return tty.Safe(func() error {
		return execute(context.Background(), request.URL(), config, remotecommand.StreamOptions{
			Stdin: o.In, Stdout: o.Out, Stderr: o.ErrOut, Tty: tty.Raw, TerminalSizeQueue: sizes,
		})
	})
}

func newExecCommand(c *client) *cobra.Command {
	var terminal terminalFlags
	var pod podFlags
	cmd := &cobra.Command{
		Use:   "exec DEVICE [-it] [--pod POD [-c CONTAINER]] -- COMMAND [args...]",
		Short: "Execute a command on a device",
		Long:  "Execute a command on a device's host, or in a container of one of its pods. The command is not run by a shell.",
		Example: `  # The kernel of the device
  kubectl edge exec device-1 -- uname -a

  # A shell on the device
  kubectl edge exec device-1 -it -- sh

  # In a pod of the device
  kubectl edge exec device-1 --pod web -c nginx -- nginx -v`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("expected 'exec DEVICE -- COMMAND [args...]'; see 'kubectl edge exec -h'")
			}
			if err := pod.validate(); err != nil {
				return err
			}
			c.tellContainer(cmd.Context(), pod, terminal.quiet)
			options := func(o exec.StreamOptions) runtime.Object {
				return &v1alpha1.EdgeDeviceExecOptions{
					Stdin: o.Stdin, Stdout: o.Out != nil, Stderr: o.ErrOut != nil, TTY: o.TTY,
					Pod: pod.pod, Container: pod.container, Command: args[1:],
				}
			}
			return c.session(args[0], "exec", terminal, options)
		},
	}
	terminal.add(cmd)
	pod.add(cmd)
	return cmd
}

func newAttachCommand(c *client) *cobra.Command {
	var terminal terminalFlags
	var pod podFlags
	cmd := &cobra.Command{
		Use:   "attach DEVICE [-it] [--pod POD [-c CONTAINER]]",
		Short: "Attach to a device's login shell, or to a running container on it",
		Example: `  # The login shell of the device
  kubectl edge attach device-1 -it

  # The main process of a container
  kubectl edge attach device-1 --pod web`,
		DisableFlagsInUseLine: true,
		Args:                  oneDevice,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := pod.validate(); err != nil {
				return err
			}
			c.tellContainer(cmd.Context(), pod, terminal.quiet)
			options := func(o exec.StreamOptions) runtime.Object {
				return &v1alpha1.EdgeDeviceAttachOptions{
					Stdin: o.Stdin, Stdout: o.Out != nil, Stderr: o.ErrOut != nil, TTY: o.TTY,
					Pod: pod.pod, Container: pod.container,
				}
			}
			return c.session(args[0], "attach", terminal, options)
		},
	}
	terminal.add(cmd)
	pod.add(cmd)
	return cmd
}

// tellContainer tells, as kubectl does, which container it is if there are several and none is named. The server's
// warning does not come over a connection that is upgraded. Who may not read the pod is not told.
func (c *client) tellContainer(ctx context.Context, flags podFlags, quiet bool) {
	if flags.pod == "" || flags.container != "" || quiet {
		return
	}
	namespace, err := c.namespace()
	if err != nil {
		return
	}
	name := flags.pod
	if before, after, ok := strings.Cut(name, "/"); ok {
		namespace, name = before, after
	}
	config, err := c.config()
	if err != nil {
		return
	}
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return
	}
	if pod, err := core.Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
		_, _ = podcmd.FindOrDefaultContainerByName(pod, "", false, c.ErrOut) // the server finds it
	}
}

// sizeQueue turns kubectl's terminal sizes into client-go's. The queue in it is nil if the output is no terminal.
type sizeQueue struct{ term.TerminalSizeQueue }

// Next waits for the next size; nil means that there will be no more.
func (q sizeQueue) Next() *remotecommand.TerminalSize {
	if q.TerminalSizeQueue == nil {
		return nil
	}
	size := q.TerminalSizeQueue.Next()
	if size == nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
}

func oneDevice(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("expected the name of one device, got %d arguments; see 'kubectl edge %s -h'", len(args), cmd.Name())
	}
	return nil
}
