package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"arhat.dev/aranya/hack/cluster/conformance"
)

// newConformanceCommand is what "make conformance" runs.
func newConformanceCommand() *cobra.Command {
	var o conformance.Options
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Run upstream Kubernetes' tests against a device, on a cluster of its own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out, o.Cluster.Out = os.Stdout, os.Stdout
			return conformance.Run(cmd.Context(), o)
		},
	}
	addPlaces(cmd, &o.Cluster, ".run-conformance")
	f := cmd.Flags()
	f.StringVar(&o.Programs, "programs", ".cache/conformance", "directory of the tests' programs")
	f.StringVar(&o.Report, "report", ".cache/conformance/report", "directory for the report")
	f.StringVar(&o.Focus, "focus", "", "regular expression of the tests to run")
	f.StringVar(&o.Skip, "skip", "", "regular expression of tests to leave out")
	f.IntVar(&o.Processes, "procs", 6, "how many tests to run at a time")
	f.IntVar(&o.Seed, "seed", 1, "what the order of the tests follows from")
	f.DurationVar(&o.Timeout, "timeout", 2*time.Hour, "how long the tests may take")
	f.BoolVar(&o.Keep, "keep", false, "leave the cluster up")
	return cmd
}
