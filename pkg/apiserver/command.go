package apiserver

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/term"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/apiserver/etcd"
	"arhat.dev/aranya/pkg/version"
)

// NewCommand returns the command "aranya-apiserver". It runs until its context ends.
func NewCommand() *cobra.Command {
	o := NewOptions()
	cmd := &cobra.Command{
		Use:   "aranya-apiserver",
		Short: "Serve edge devices as resources and Nodes of a Kubernetes cluster",
		Long: `aranya-apiserver serves the API group aranya.arhat.dev to kube-apiserver, holds the links of
the devices that dial in, and runs a Node for each of them in the main cluster.`,
		Version:      version.String(),
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return o.registry.Set()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := logsapi.ValidateAndApply(o.Logs, o.ServerRun.ComponentGlobalsRegistry.FeatureGateFor(o.ServerRun.ComponentName)); err != nil {
				return err
			}
			cliflag.PrintFlags(cmd.Flags())
			if err := o.Complete(); err != nil {
				return err
			}
			if err := o.Validate(); err != nil {
				return err
			}
			o.applyMetrics()
			return Run(cmd.Context(), o)
		},
	}
	flags := o.Flags()
	for _, fs := range flags.FlagSets {
		cmd.Flags().AddFlagSet(fs)
	}
	columns, _, _ := term.TerminalSize(cmd.OutOrStdout())
	cliflag.SetUsageAndHelpFunc(cmd, flags, columns)
	return cmd
}

// Run runs a server with options that are complete and valid, until ctx ends and the server has shut
// down, or until a part of it fails.
func Run(ctx context.Context, o *Options) error {
	registerMetrics()
	klog.FromContext(ctx).Info("Starting aranya-apiserver", "version", version.String(), "replica", o.ReplicaName)
	if err := o.checkFiles(); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	if o.embeddedEtcd() {
		embedded, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: o.EmbeddedEtcdDir, QuotaBytes: o.EmbeddedEtcdQuotaBytes})
		if err != nil {
			return err
		}
		// Last of all: everything else may still want to write on its way out.
		defer embedded.Stop()
		o.Recommended.Etcd.StorageConfig.Transport.ServerList = []string{embedded.Endpoint()}
		finished := make(chan struct{})
		defer close(finished)
		go func() {
			select {
			case <-embedded.Failed():
				stop(errors.New("the embedded etcd stopped"))
			case <-finished:
			}
		}()
	} else if err := o.awaitEtcd(ctx); err != nil {
		return err
	}
	config, err := o.Config(ctx)
	if err != nil {
		return err
	}
	server, err := config.Complete().New(ctx)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
