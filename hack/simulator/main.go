// Command simulator runs many simulated edge devices against an aranya: see docs/simulator.md. What it
// does is in package simulate.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/hack/program"
	"arhat.dev/aranya/hack/simulator/simulate"
	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// memoryDir is a file system in memory.
var memoryDir = "/dev/shm"

func main() {
	// A line per device and link would be of no use; what matters is counted.
	klog.SetLogger(logr.Discard())
	program.Main(newCommand())
}

// files are the options that are read from files.
type files struct {
	kubeconfig, tokens, edgeDevice, agent string
}

func newCommand() *cobra.Command {
	o := simulate.Options{Out: os.Stdout}
	var in files
	cmd := &cobra.Command{
		Use:   "simulator",
		Short: "Run simulated edge devices against an aranya",
		Long: "Run simulated edge devices against an aranya: the real agent, with its link, mutual TLS and enrolment, over a container\n" +
			"runtime that runs nothing. Ctrl-C ends the devices and deletes the EdgeDevices that were created.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if in.tokens != "" && !cmd.Flags().Changed("devices") {
				o.Devices = 0
			}
			if err := in.read(&o); err != nil {
				return err
			}
			if err := o.Validate(); err != nil { // before there is anything to clean up
				return err
			}
			parent := cmp.Or(o.Dir, tempDir())
			if err := os.MkdirAll(parent, 0o700); err != nil {
				return err
			}
			// One of its own: it is removed, with all that is in it.
			if o.Dir, err = os.MkdirTemp(parent, "aranya-simulator-"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, volumes.RemoveAll(o.Dir)) }()
			return simulate.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Devices, "devices", 10, "how many devices")
	f.StringVar(&in.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster; by default $KUBECONFIG or ~/.kube/config")
	f.StringVarP(&o.Namespace, "namespace", "n", "default", "namespace of the EdgeDevices")
	f.StringVar(&o.Prefix, "prefix", "sim", "the EdgeDevices are named PREFIX-0, PREFIX-1 and so on")
	f.BoolVar(&o.NoNode, "no-node", false, "devices without a Node (spec.node.disabled)")
	f.StringVar(&in.edgeDevice, "edgedevice", "", "file with a template of the EdgeDevices; $(NAME) in it is the name of each")
	f.StringVar(&in.tokens, "tokens", "", "file with enrolment tokens, one a line, of EdgeDevices that exist, instead of a cluster")
	f.StringVar(&o.Server, "server", "", "address of aranya's gateway, as in arhat.yaml; by default the one that aranya gives out")
	f.StringVar(&in.agent, "config", "", "file with a template of arhat.yaml, for what belongs to the link; $(NAME) in it is the name of each device")
	f.IntVar(&o.Workers, "workers", 20, "how many devices are enrolled at the same time")
	f.DurationVar(&o.Runtime.StartDelay, "start-delay", 0, "how long a sandbox and a container take to start; up to as much again is added at random")
	f.Float64Var(&o.Runtime.FailureRate, "failure-rate", 0, "part of the starts that fail, from 0 to 1")
	f.StringVar(&o.Runtime.PodIP, "pod-ip", "192.0.2.1", "address of every pod")
	f.BoolVar(&o.Keep, "keep", false, "leave the EdgeDevices in the end")
	f.StringVar(&o.Dir, "dir", "", "where to make the directory for the devices' state, which is removed in the end; by default in memory")
	f.DurationVar(&o.Period, "period", 10*time.Second, "how often to tell how the devices are")
	return cmd
}

func tempDir() string {
	if info, err := os.Stat(memoryDir); err == nil && info.IsDir() {
		return memoryDir
	}
	return os.TempDir()
}

// read reads what the options name.
func (in *files) read(o *simulate.Options) error {
	for path, text := range map[string]*string{in.edgeDevice: &o.EdgeDevice, in.agent: &o.Agent} {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			return err
		}
		*text = string(data)
	}
	if in.tokens != "" {
		data, err := os.ReadFile(filepath.Clean(in.tokens))
		if err != nil {
			return err
		}
		if o.Tokens = strings.Fields(string(data)); len(o.Tokens) == 0 {
			return errors.New(in.tokens + " holds no token")
		}
		return nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = in.kubeconfig
	var err error
	o.Cluster, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return fmt.Errorf("find the cluster (give --kubeconfig, or --tokens): %w", err)
	}
	return nil
}
