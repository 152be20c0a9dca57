package containerdtest

import (
	"bufio"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/test/framework/containerd"
)

const testImage = "test.local/box:1"

// doomed is set for the process of TestKilled that is to be killed.
const doomed = "ARANYA_TEST_DOOMED"

// TestKilled: what a test has left that was killed is removed by the next one, and nothing else.
func TestKilled(t *testing.T) {
	if os.Getenv(doomed) != "" {
		dieHere(t)
		return
	}
	if err := containerd.Check(); err != nil {
		t.Skip(err)
	}
	t.Setenv("TMPDIR", t.TempDir()) // leftovers of others are not this test's business
	_, live := Start(t, testImage)

	child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), doomed+"=1")
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dead, bridge string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == doomed {
			dead, bridge = fields[1], fields[2]
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the other process was not killed")
	}
	left := []string{dead, "/sys/class/net/" + bridge}
	for _, path := range left {
		if _, err := os.Stat(path); dead == "" || err != nil {
			t.Fatalf("nothing was left: %q, %v", path, err)
		}
	}

	c, err := newClaim()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.end(); err != nil {
			t.Error(err)
		}
	}()
	for _, path := range left {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/pods_" + filepath.Base(dead)); len(cgroups) != 0 {
		t.Errorf("%v are still there", cgroups)
	}
	files, _ := filepath.Glob("/proc/[1-9]*/cmdline")
	for _, file := range files {
		if args, _ := os.ReadFile(file); strings.Contains(string(args), dead) {
			t.Errorf("a process is still there: %q", args)
		}
	}
	if err := ctr(live, "containers", "list"); err != nil {
		t.Errorf("the containerd of a test that goes on does not answer: %v", err)
	}
}

// dieHere leaves a container, a bridge with an address, a mount and a cgroup.
func dieHere(t *testing.T) {
	_, dir := Start(t, testImage)
	server := filepath.Join(dir, serverDir)
	bridge, err := os.ReadFile(filepath.Join(server, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := os.ReadFile(filepath.Join(dir, claimFile))
	if err != nil {
		t.Fatal(err)
	}
	gateway := netip.MustParsePrefix(string(subnet)).Addr().Next().String() + "/24"
	for _, args := range [][]string{{"link", "add", string(bridge), "type", "bridge"}, {"address", "add", gateway, "dev", string(bridge)}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	if err := ctr(dir, "run", "-d", "--runc-root", filepath.Join(server, "runc"), testImage, "one", "/bin/sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(dir, "volume")
	if err := os.Mkdir(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if cgroup := "/sys/fs/cgroup/memory"; isDir(cgroup) {
		if err := os.MkdirAll(filepath.Join(cgroup, "pods_"+filepath.Base(dir), "pod1"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = os.Stdout.WriteString(doomed + " " + dir + " " + string(bridge) + "\n")
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func ctr(dir string, args ...string) error {
	socket := filepath.Join(dir, serverDir, "containerd.sock")
	return exec.Command("ctr", append([]string{"-a", socket, "-n", "k8s.io"}, args...)...).Run()
}

func TestSubnets(t *testing.T) {
	table := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"cni0\t0003620A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	path := filepath.Join(t.TempDir(), "route")
	if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	routes, err := readRoutes(path)
	if err != nil || len(routes) != 2 || routes[0].Bits() != 0 || routes[1] != netip.MustParsePrefix("10.98.3.0/24") {
		t.Fatalf("got %v, %v", routes, err)
	}
	if err := os.WriteFile(path, []byte("Iface\nno route\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if routes, err := readRoutes(path); err == nil {
		t.Errorf("got %v of no table", routes)
	}

	taken := []netip.Prefix{netip.MustParsePrefix("10.98.0.0/17"), netip.MustParsePrefix("10.98.128.0/18"), netip.MustParsePrefix("10.98.193.7/32")}
	for range 300 {
		subnet, err := freeSubnet(taken)
		if err != nil {
			t.Fatal(err)
		}
		if third := subnet.Addr().As4()[2]; third < 192 || third == 193 {
			t.Fatalf("%s is taken", subnet)
		}
	}
	if subnet, err := freeSubnet([]netip.Prefix{netip.MustParsePrefix("10.98.0.0/16")}); err == nil {
		t.Errorf("%s is taken", subnet)
	}
}
