package apiserver

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// Requests to the main cluster carry a trace if that is configured.
func TestTracesOfMainCluster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tracing")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: 127.0.0.1:1\nsamplingRatePerMillion: 1000000\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]bool{"--tracing-config-file=" + path: true, "--tracing-config-file=": false} {
		t.Run(flag, func(t *testing.T) {
			cluster, kubeconfig := newMainCluster(t)
			var requests, traced atomic.Int32
			cluster.asked = func(r *http.Request) {
				requests.Add(1)
				if r.Header.Get("Traceparent") != "" {
					traced.Add(1)
				}
			}
			o := parse(t, flag, "--kubeconfig="+kubeconfig, "--node-address=127.0.0.1", "--etcd-servers=http://127.0.0.1:1", "--authentication-skip-lookup",
				"--gateway-bind-address=127.0.0.1:0", "--kubelet-bind-address=127.0.0.1:0", "--bind-address=127.0.0.1", "--secure-port=0")
			if err := errors.Join(o.registry.Set(), o.Complete()); err != nil {
				t.Fatal(err)
			}
			// It asks for the Secret of the serving CA.
			config, err := o.Config(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			closeListener(config.Extra.GatewayListener)
			closeListener(config.Extra.KubeletListener)
			if got := traced.Load(); requests.Load() == 0 || got != requests.Load() && want || got != 0 && !want {
				t.Errorf("%d of %d requests are traced", got, requests.Load())
			}
		})
	}
}
