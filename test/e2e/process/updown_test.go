package process_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	before := machine(t)
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
	for range 2 { // again is no error
		if err := local.Down(t.Context(), dir, true, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if after := machine(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
	e.Kubectl(t, "get", "nodes", "device-1")
}

// machine lists what a cluster could leave behind: its processes, mounts, namespaces and interfaces.
func machine(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, "interface "+l.Attrs().Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(line)[4])
	}
	namespaces, _ := filepath.Glob("/run/netns/*")
	for _, name := range namespaces {
		all = append(all, "network namespace "+name)
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, path := range programs {
		target, err := os.Readlink(path)
		if err == nil && strings.HasPrefix(target, os.Getenv("ARANYA_BIN")) {
			all = append(all, fmt.Sprintf("process %s of %s", strings.Split(path, "/")[2], target))
		}
	}
	slices.Sort(all)
	return all
}
