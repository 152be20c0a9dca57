// Command cluster runs whole clusters on one machine for development and tests: see "make up",
// "make down" and "make demo". It is also the program of the processes that such a cluster consists
// of beside the real ones: the supervisors, and etcd.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"

	"arhat.dev/aranya/hack/cluster/demo"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/cluster/supervisor"
	"arhat.dev/aranya/hack/program"
	"arhat.dev/aranya/test/framework/containerd"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "etcd" {
		etcdmain.Main(os.Args[1:]) // has its own flags and signal handling
		return
	}
	program.Main(newCommand())
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Run a whole cluster with edge devices on this machine",
	}
	cmd.AddCommand(newUpCommand(), newDownCommand(), newDemoCommand(), newConformanceCommand(), newHelloCommand(), newSuperviseCommand())
	return cmd
}

func newUpCommand() *cobra.Command {
	o := local.Options{Out: os.Stdout}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring a cluster up; one that is up gets the devices it lacks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Runtime == local.RuntimeContainerd {
				image, err := containerd.Busybox(local.SampleImage)
				if err != nil {
					return err
				}
				o.Images = append(o.Images, image)
			}
			c, err := local.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			c.Describe(os.Stdout)
			return nil
		},
	}
	addOptions(cmd, &o)
	return cmd
}

func addOptions(cmd *cobra.Command, o *local.Options) {
	addPlaces(cmd, o, ".run")
	f := cmd.Flags()
	f.IntVar(&o.Devices, "devices", 2, "how many devices to have")
	f.StringVar(&o.Runtime, "runtime", local.RuntimeProcess, "runtime of the devices: process or containerd")
	f.StringVar(&o.Link, "link", local.LinkGRPC, "how devices reach aranya: grpc, websocket or mqtt")
	f.StringVar(&o.Etcd, "etcd", local.EtcdEmbedded, "where aranya keeps its objects: embedded, or shared for the cluster's etcd")
	f.BoolVar(&o.KubernetesOnly, "kubernetes-only", false, "leave aranya and the devices out")
}

// addPlaces adds where a cluster lies, and what it is made of.
func addPlaces(cmd *cobra.Command, o *local.Options, dir string) {
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", dir, "directory of the cluster")
	f.StringVar(&o.Bin, "bin", ".cache/bin", "directory of the programs")
	f.StringVar(&o.Source, "source", ".", "root of the source tree")
}

func newDownCommand() *cobra.Command {
	var dir string
	var purge bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a cluster and remove what it made on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return local.Down(cmd.Context(), dir, purge, os.Stdout)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".run", "directory of the cluster")
	cmd.Flags().BoolVar(&purge, "purge", false, "remove its files, too")
	return cmd
}

func newDemoCommand() *cobra.Command {
	o := local.Options{Out: os.Stdout}
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what aranya does, on a cluster of its own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Run(cmd.Context(), o, once)
		},
	}
	addPlaces(cmd, &o, ".run-demo")
	cmd.Flags().BoolVar(&once, "once", false, "end after the tour")
	return cmd
}

// newHelloCommand is what the pods of the demo run.
func newHelloCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:    "hello",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Hello(cmd.Context(), port, os.Stdout)
		},
	}
	cmd.Flags().IntVar(&port, "port", 8080, "port to serve on")
	return cmd
}

// newSuperviseCommand is what local.Up runs for each group of processes.
func newSuperviseCommand() *cobra.Command {
	var socket, hostname string
	var binds []string
	cmd := &cobra.Command{
		Use:    "supervise",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if hostname != "" {
				isolation := supervisor.Isolation{Hostname: hostname, Binds: map[string]string{}}
				for _, bind := range binds {
					target, source, ok := strings.Cut(bind, "=")
					if !ok {
						return fmt.Errorf("--bind=%s: it must be TARGET=SOURCE", bind)
					}
					isolation.Binds[target] = source
				}
				if err := isolation.Enter(); err != nil {
					return err
				}
			}
			return supervisor.Run(cmd.Context(), socket)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "path of the control socket")
	cmd.Flags().StringVar(&hostname, "hostname", "", "be the init process of a machine of that name; needs new namespaces")
	cmd.Flags().StringArrayVar(&binds, "bind", nil, "file to hide with another in that machine, as TARGET=SOURCE")
	return cmd
}
