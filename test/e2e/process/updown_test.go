package process_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

// A cluster that was taken down leaves no process, mount, network namespace or interface behind, and
// another one that runs beside it is not disturbed.
func TestUpAndDown(t *testing.T) {
	e := suite.Get(t)
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
	if len(traces(t, id, dir)) == 0 {
		t.Error("no trace of a cluster that is up")
	}
	for range 2 { // again is no error
		if err := local.Down(t.Context(), dir, true, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if left := traces(t, id, dir); len(left) != 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
	e.Kubectl(t, "get", "nodes", "device-1")
}

// traces lists what is on this machine of a cluster: processes, mounts, network namespaces and
// interfaces.
func traces(t *testing.T, id, dir string) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.Contains(l.Attrs().Name, id) {
			all = append(all, "interface "+l.Attrs().Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; strings.Contains(point, id) || strings.HasPrefix(point, dir) {
			all = append(all, "mount "+point)
		}
	}
	namespaces, _ := filepath.Glob("/run/netns/*" + id + "*")
	all = append(all, namespaces...)
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		env, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(env), "ARANYA_CLUSTER="+id+"\x00") {
			command, _ := os.ReadFile(filepath.Dir(path) + "/cmdline")
			all = append(all, fmt.Sprintf("process %s: %q", strings.Split(path, "/")[2], command))
		}
	}
	return all
}
