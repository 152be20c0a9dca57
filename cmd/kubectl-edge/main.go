// Command kubectl-edge is a kubectl plugin for edge devices: put it on the PATH and call it as
// "kubectl edge".
package main

import (
	"os"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the credential plugins that kubectl has

	"arhat.dev/aranya/pkg/cli"
)

func main() {
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	os.Exit(cli.Run(cli.NewCommand(streams), streams.ErrOut))
}
