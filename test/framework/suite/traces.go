package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Traces lists what is on this machine of a cluster: processes, mounts, network namespaces and
// interfaces.
func Traces(t testing.TB, id, dir string) []string {
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
