package process_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

// A cluster that was taken down leaves no process, mount, network namespace or interface behind, and
// another one that runs beside it is not disturbed.
func TestUpAndDown(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	options := local.Options{Dir: dir, Bin: os.Getenv("ARANYA_BIN"), Source: os.Getenv("ARANYA_SOURCE"), Devices: 1, Out: io.Discard}
	c, err := local.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := local.Down(context.Background(), dir, true, io.Discard); err != nil {
			t.Error(err)
		}
	})
	// Again, with one more device.
	options.Devices = 2
	if _, err := local.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	out, err := c.Kubectl(t.Context(), "get", "nodes", "-o", "name").Output()
	if err != nil || string(out) != "node/device-1\nnode/device-2\n" {
		t.Errorf("nodes %q, %v", out, err)
	}
	options.Etcd = local.EtcdShared
	if _, err := local.Up(t.Context(), options); err == nil || !strings.Contains(err.Error(), "make down") {
		t.Errorf("another etcd: %v", err)
	}
	id := c.State().ID
	if len(suite.Traces(t, id, dir)) == 0 {
		t.Error("no trace of a cluster that is up")
	}
	for range 2 { // again is no error
		if err := local.Down(t.Context(), dir, true, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if left := suite.Traces(t, id, dir); len(left) != 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
	e.Kubectl(t, "get", "nodes", "device-1")
}
