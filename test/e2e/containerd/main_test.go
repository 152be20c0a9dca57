// Package containerd_test holds the end-to-end tests on devices that run pods by containerd: each
// device has a network of its own, from which nothing can be reached but the gateway. Everything that
// takes part is real: etcd, Kubernetes' control plane and kubectl, aranya, arhat, containerd and runc.
package containerd_test

import (
	"testing"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

func TestMain(m *testing.M) {
	suite.Main(m, suite.Config{Runtime: local.RuntimeContainerd, Etcd: local.EtcdEmbedded, Devices: 2, NeedsRoot: true})
}

const device = "device-1"
