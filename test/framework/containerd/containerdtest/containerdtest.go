// Package containerdtest runs a containerd for one test, beside whatever else runs on the machine. Nothing but
// tests may import it.
package containerdtest

import (
	"os"
	"path/filepath"
	"testing"

	"arhat.dev/aranya/test/framework/containerd"
)

// serverDir is containerd's own directory in that of the test.
const serverDir = "ctrd"

// Start runs a containerd that has Busybox by the names given, and skips the test where none can run. It returns
// the directory that the test may use, too, whose name is unique on the machine. With the test everything goes:
// what is mounted in the directory, and cgroups "<name>_<base of the directory>" at the root of any hierarchy.
func Start(t testing.TB, images ...string) (server *containerd.Server, dir string) {
	t.Helper()
	if err := containerd.Check(); err != nil {
		t.Skip(err)
	}
	var busyboxes []containerd.Image
	for _, name := range images {
		image, err := containerd.Busybox(name)
		if err != nil {
			t.Fatal(err)
		}
		busyboxes = append(busyboxes, image)
	}
	c, err := newClaim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.end(); err != nil {
			t.Errorf("cleaning up %s: %v", c.dir, err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(c.dir, serverDir, "containerd.log"))
			t.Logf("containerd: %s", log[max(0, len(log)-4000):])
		}
	})
	server, err = containerd.Start(t.Context(), containerd.Options{Dir: filepath.Join(c.dir, serverDir), Subnet: c.subnet.String()}, busyboxes...)
	if err != nil {
		t.Fatal(err)
	}
	return server, c.dir
}
