// Package process_test holds the end-to-end tests of the API, the link and the subresources on
// devices with the process runtime, which need no container runtime and run without root as well.
// aranya keeps its objects in the cluster's etcd here.
package process_test

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

func TestMain(m *testing.M) {
	suite.Main(m, suite.Config{Runtime: local.RuntimeProcess, Etcd: local.EtcdShared, Devices: 2})
}

const device = "device-1"

// helloPod returns a pod that serves HTTP on a port of the device.
func helloPod(port string) *corev1.Pod {
	pod := suite.Pod(device, "host", filepath.Join(os.Getenv("ARANYA_BIN"), "cluster"), "hello", "--port="+port)
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "GREETING", Value: "Hello"}}
	return pod
}
