// Command arhat is the agent that runs on edge devices. It enrols the device with aranya, keeps the
// link, and runs pods and sessions for it; see "arhat --help".
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/links"
	"arhat.dev/aranya/pkg/edge/agent/logging"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/version"
)

// defaultPath is the PATH of an agent that was started without one.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "arhat:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "arhat",
		Short:         "Connects an edge device to aranya and runs its pods",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newJoinCommand(), newRunCommand(), newVersionCommand())
	return root
}

// flags override what the configuration file says.
type flags struct {
	file, server, stateDir, runtime                                        string
	mqttNamespace, mqttUsername, mqttPasswordFile, mqttCAFile, webSocketCA string
}

func (f *flags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "configuration file (arhat.yaml)")
	cmd.Flags().StringVar(&f.server, "server", "", "address of aranya's gateway, host:port, or wss://host[:port][/path], or of a broker, mqtt[s]://host[:port] or mqtt+ws[s]://host[:port][/path]")
	cmd.Flags().StringVar(&f.mqttNamespace, "mqtt-message-namespace", "", "prefix of the topics at an MQTT broker (default "+config.DefaultMessageNamespace+")")
	cmd.Flags().StringVar(&f.mqttUsername, "mqtt-username", "", "user name for an MQTT broker")
	cmd.Flags().StringVar(&f.mqttPasswordFile, "mqtt-password-file", "", "file with the password for an MQTT broker")
	cmd.Flags().StringVar(&f.mqttCAFile, "mqtt-ca-file", "", "file with the CAs of an MQTT broker (default the system's)")
	cmd.Flags().StringVar(&f.webSocketCA, "websocket-ca-file", "", "file with the CAs of a wss:// server (default the system's)")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "directory for identity and pods (default "+config.DefaultStateDir+")")
	cmd.Flags().StringVar(&f.runtime, "runtime", "", `"process", or the CRI socket of a container runtime (default `+config.DefaultRuntime+`)`)
}

func (f *flags) load() (*config.Configuration, error) {
	cfg := config.New()
	if f.file != "" {
		var err error
		if cfg, err = config.Load(f.file); err != nil {
			return nil, err
		}
	}
	for _, o := range []struct {
		flag  string
		field *string
	}{
		{f.server, &cfg.Server}, {f.stateDir, &cfg.StateDir}, {f.runtime, &cfg.Runtime},
		{f.mqttNamespace, &cfg.MQTT.MessageNamespace}, {f.mqttUsername, &cfg.MQTT.Username},
		{f.mqttPasswordFile, &cfg.MQTT.PasswordFile}, {f.mqttCAFile, &cfg.MQTT.CAFile}, {f.webSocketCA, &cfg.WebSocket.CAFile},
	} {
		if o.flag != "" {
			*o.field = o.flag
		}
	}
	if err := cfg.Finish(); err != nil && f.file != "" {
		return nil, fmt.Errorf("%s: %w", f.file, err)
	} else if err != nil {
		return nil, err
	}
	return cfg, nil
}

func newJoinCommand() *cobra.Command {
	f := &flags{}
	var token string
	cmd := &cobra.Command{
		Use:   "join --server ADDRESS --token TOKEN",
		Short: "Enrol this device, then run the agent",
		Long: `Enrols this device with the token from "kubectl edge token DEVICE", then runs the agent in the
foreground. A token is used once: with the one that this device has enrolled with, or without any, the command
just runs the agent. With another one the device enrols anew, as the EdgeDevice that the token is for.
The token may also come from the environment variable ARHAT_TOKEN, which "ps" does not show.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if token == "" {
				token = os.Getenv("ARHAT_TOKEN")
			}
			return run(cmd.Context(), f, func(ctx context.Context, cfg *config.Configuration) (*uplink.Joined, error) {
				return join(ctx, cfg, token)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&token, "token", "", "enrolment token")
	return cmd
}

// join enrols by the links of the configuration. At an MQTT broker the device is found by the name that the
// token has.
func join(ctx context.Context, cfg *config.Configuration, token string) (*uplink.Joined, error) {
	var device identity.Device
	if t, err := identity.ParseToken(token); err == nil { // what is wrong with it is told by Join
		device = identity.Device{Namespace: t.Namespace, Name: t.Name}
	}
	dialer := links.New(cfg, device)
	return uplink.Join(ctx, uplink.JoinOptions{Server: dialer.String(), Token: token, StateDir: cfg.StateDir, Dialer: dialer})
}

func newRunCommand() *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the agent of an enrolled device",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), f, nil)
		},
	}
	f.add(cmd)
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "arhat %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// run enrols the device, if that is asked for, and runs the agent until a signal comes.
func run(ctx context.Context, f *flags, enrol func(context.Context, *config.Configuration) (*uplink.Joined, error)) error {
	cfg, err := f.load()
	if err != nil {
		return err
	}
	if os.Getenv("PATH") == "" {
		// Commands on the host are looked up in it.
		if err := os.Setenv("PATH", defaultPath); err != nil {
			return err
		}
	}
	// A device has little memory: collect often rather than let the heap double.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	logger, closer, err := logging.Setup(&cfg.Logging)
	if err != nil {
		return err
	}
	defer closer.Close()
	ctx = klog.NewContext(ctx, logger)
	var seams agent.Seams
	if enrol != nil {
		seams.Enrol = func(ctx context.Context) (*uplink.Joined, error) { return enrol(ctx, cfg) }
	}
	a, err := agent.New(ctx, cfg, seams)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
