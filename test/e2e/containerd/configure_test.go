package containerd_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

// reconfigure restarts a device's agent with more in its arhat.yaml, and returns what takes that away
// again. It is taken away at the end of the test at the latest.
func reconfigure(t *testing.T, e *suite.Env, name, extra string) (restore func()) {
	t.Helper()
	return rewrite(t, e, name, func(plain []byte) []byte {
		fields := map[string]any{}
		for _, part := range [][]byte{plain, []byte(extra)} {
			if err := yaml.Unmarshal(part, &fields); err != nil {
				t.Fatal(err)
			}
		}
		data, err := yaml.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return data
	})
}

// rewrite is reconfigure for another change than an addition.
func rewrite(t *testing.T, e *suite.Env, name string, change func([]byte) []byte) (restore func()) {
	t.Helper()
	path := filepath.Join(e.Cluster.Dir, "devices", name, "arhat.yaml")
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set := func(content []byte) {
		t.Helper()
		ctx, agent := context.Background(), e.Cluster.Device(name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := agent.Stop(ctx, local.ServiceArhat); err != nil {
			t.Fatal(err)
		}
		if err := agent.Resume(ctx, local.ServiceArhat); err != nil {
			t.Fatal(err)
		}
		if err := e.Cluster.WaitOnline(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	restore = sync.OnceFunc(func() { set(plain) })
	t.Cleanup(restore)
	set(change(plain))
	return restore
}
