package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/http2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubectllogs "k8s.io/kubectl/pkg/cmd/logs"
	"k8s.io/kubectl/pkg/util"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// logsOptions are the flags of logs, as kubectl logs has them.
type logsOptions struct {
	podFlags
	path, unit                   string
	follow, previous, timestamps bool
	since                        time.Duration
	sinceTime                    string
	tail, limitBytes             int64
}

func newLogsCommand(c *client) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:     "logs DEVICE [-f] [--path FILE | --unit UNIT | --pod POD [-c CONTAINER]]",
		Aliases: []string{"log"},
		Short:   "Print the logs of a device's agent, of a file or journal unit on it, or of a container",
		Example: `  # The log of the agent on the device
  kubectl edge logs device-1 --tail=20

  # Follow a unit of the device's journal
  kubectl edge logs device-1 --unit ssh.service -f

  # A file that the device's policy allows
  kubectl edge logs device-1 --path /var/log/syslog`,
		DisableFlagsInUseLine: true,
		Args:                  oneDevice,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := o.toOptions()
			if err != nil {
				return err
			}
			request, err := c.subresource(http.MethodGet, args[0], "log", options)
			if err != nil {
				return err
			}
			err = kubectllogs.DefaultConsumeRequest(cmd.Context(), request, c.Out)
			if isCutOff(err) {
				return fmt.Errorf("the log was cut off; 'kubectl describe edgedevice %s' tells whether the device is connected", args[0])
			}
			return err
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&o.path, "path", "", "Log file on the device's host, which the device's policy must allow")
	cmd.Flags().StringVar(&o.unit, "unit", "", "Unit of the systemd journal of the device's host")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "Specify if the logs should be streamed")
	cmd.Flags().BoolVarP(&o.previous, "previous", "p", false, "If true, print the logs for the previous instance of the container in a pod if it exists")
	cmd.Flags().BoolVar(&o.timestamps, "timestamps", false, "Include timestamps on each line in the log output")
	cmd.Flags().DurationVar(&o.since, "since", 0, "Only return logs newer than a relative duration like 5s, 2m, or 3h. Only one of since-time / since may be used.")
	cmd.Flags().StringVar(&o.sinceTime, "since-time", "", "Only return logs after a specific date (RFC3339). Only one of since-time / since may be used.")
	cmd.Flags().Int64Var(&o.tail, "tail", -1, "Lines of recent log file to display. Defaults to -1, showing all log lines.")
	cmd.Flags().Int64Var(&o.limitBytes, "limit-bytes", 0, "Maximum bytes of logs to return. Defaults to no limit.")
	return cmd
}

// isCutOff says whether the server has aborted its response: with a log it means that the rest cannot be had.
func isCutOff(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(http2.StreamError))
}

// toOptions checks the flags and turns them into the query of edgedevices/log.
func (o *logsOptions) toOptions() (*v1alpha1.EdgeDeviceLogOptions, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	sources := 0
	for _, s := range []string{o.pod, o.path, o.unit} {
		if s != "" {
			sources++
		}
	}
	switch {
	case sources > 1:
		return nil, errors.New("at most one of --pod, --path and --unit may be used")
	case o.previous && o.pod == "":
		return nil, errors.New("--previous needs --pod: only containers have previous instances")
	case o.since != 0 && o.sinceTime != "":
		return nil, errors.New("at most one of --since and --since-time may be used")
	case o.since < 0:
		return nil, errors.New("--since must be greater than 0")
	case o.limitBytes < 0:
		return nil, errors.New("--limit-bytes must be greater than 0")
	case o.tail < -1:
		return nil, errors.New("--tail must be greater than or equal to -1")
	}
	options := &v1alpha1.EdgeDeviceLogOptions{
		Pod: o.pod, Container: o.container, Path: o.path, Unit: o.unit,
		Follow: o.follow, Previous: o.previous, Timestamps: o.timestamps,
	}
	if o.sinceTime != "" {
		t, err := util.ParseRFC3339(o.sinceTime, metav1.Now)
		if err != nil {
			return nil, fmt.Errorf("--since-time: %w", err)
		}
		options.SinceTime = &t
	}
	if o.since != 0 {
		// Rounded up, so that a fraction of a second does not mean everything.
		options.SinceSeconds = ptr.To(int64((o.since + time.Second - 1) / time.Second))
	}
	if o.tail >= 0 {
		options.TailLines = &o.tail
	}
	if o.limitBytes > 0 {
		options.LimitBytes = &o.limitBytes
	}
	return options, nil
}
