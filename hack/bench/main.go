// Command bench measures aranya on real clusters on this machine: see "make bench" and
// docs/benchmarks.md. Each scenario prints a table; all of them end up in a JSON file and an HTML page.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/bench/scenario"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/program"
	"arhat.dev/aranya/pkg/version"
)

func main() {
	// What clients log of calls that were given up says nothing that the error does not.
	klog.SetLogger(logr.Discard())
	program.Main(newCommand())
}

func newCommand() *cobra.Command {
	var names, out string
	o := harness.Options{Out: os.Stdout, Command: "make bench"}
	p := harness.Params{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure aranya on real clusters on this machine",
		Long:  "Measure aranya on real clusters on this machine. Scenarios:\n" + list(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := harness.Select(scenario.All(), names)
			if err != nil {
				return err
			}
			return run(cmd.Context(), o, p, chosen, out)
		},
	}
	cmd.AddCommand(newEchoCommand())
	f := cmd.Flags()
	f.StringVar(&names, "scenario", "", "names of scenarios, comma-separated; all if empty")
	f.IntVar(&p.N, "n", 0, "how many devices or sessions, instead of the scenario's own number")
	f.StringVar(&p.Link, "link", local.LinkGRPC, "how devices reach aranya: grpc, websocket or mqtt")
	f.StringVar(&p.ControllerManager, "controller-manager", harness.ControllerManagerStock, "stock (20 requests/s) or fast")
	f.BoolVar(&p.Smoke, "smoke", false, "check that the scenarios work, with little of everything")
	f.StringVar(&o.Bin, "bin", ".cache/bin", "directory of the programs")
	f.StringVar(&o.Source, "source", ".", "root of the source tree")
	f.StringVar(&out, "out", ".cache/bench", "directory for the reports; each run makes one below it")
	return cmd
}

// newEchoCommand is what runs on devices behind a port-forward.
func newEchoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    scenario.EchoCommand + " PORT",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return scenario.Echo(cmd.Context(), args[0])
		},
	}
}

func list() string {
	var text string
	for _, s := range scenario.All() {
		text += fmt.Sprintf("  %-10s %s (N=%d)\n", s.Name, s.Doc, s.N)
	}
	return text
}

// run goes on with the next scenario if one fails, and tells all failures in the end.
func run(ctx context.Context, o harness.Options, p harness.Params, chosen []harness.Scenario, out string) error {
	r := report.Report{Date: time.Now(), Machine: harness.Machine(), Version: version.String()}
	out = filepath.Join(out, r.Date.Format("20060102-150405"))
	o.Reports = out
	h := harness.New(o)
	var errs []error
	for i := range chosen {
		result, err := h.Run(ctx, &chosen[i], p)
		r.Results = append(r.Results, result)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", chosen[i].Name, err))
			errs = append(errs, h.Close(ctx, false))
		}
		if ctx.Err() != nil {
			break
		}
	}
	errs = append(errs, h.Close(ctx, true))
	paths, err := r.Write(out)
	errs = append(errs, err)
	for _, path := range paths {
		_, _ = fmt.Fprintf(o.Out, "Written: %s\n", path)
	}
	return errors.Join(errs...)
}
