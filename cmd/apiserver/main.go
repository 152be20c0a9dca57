// aranya-apiserver is the server of aranya: extension API server, device gateway, controllers and
// kubelet endpoint in one process.
package main

import (
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"

	"arhat.dev/aranya/pkg/apiserver"
)

func main() {
	collectLate(heapFloor)
	cmd := apiserver.NewCommand()
	cmd.SetContext(genericapiserver.SetupSignalContext())
	os.Exit(cli.Run(cmd))
}
