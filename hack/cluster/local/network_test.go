package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// TestMain lets the test binary be the supervisor of a machine.
func TestMain(m *testing.M) {
	if socket := os.Getenv("LOCAL_TEST_SOCKET"); socket != "" {
		err := (&supervisor.Isolation{Hostname: "test"}).Enter()
		if err == nil {
			err = supervisor.Run(context.Background(), socket)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChooseNetworkAvoidsRoutes(t *testing.T) {
	taken := netip.MustParsePrefix("100.64.16.0/20")
	routes := []netlink.Route{{Dst: &net.IPNet{IP: net.IPv4(100, 64, 20, 0), Mask: net.CIDRMask(24, 32)}}}
	if !inUse(taken, routes) {
		t.Errorf("%s is not seen to overlap", taken)
	}
	if other := netip.MustParsePrefix("100.64.32.0/20"); inUse(other, routes) {
		t.Errorf("%s is seen to overlap", other)
	}
	if everything := []netlink.Route{{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}}; inUse(taken, everything) {
		t.Error("the default route counts")
	}
}

func TestNamesFitIntoInterfaces(t *testing.T) {
	n := &Network{CIDR: netip.MustParsePrefix("100.64.16.0/20"), Gateway: netip.MustParseAddr("100.64.16.1")}
	seen := map[netip.Addr]bool{n.Gateway: true}
	for i := 1; i <= maxDevices; i++ {
		d := Device{Name: deviceName(i), Index: i}
		n.nameDevice("abcdef", &d)
		if len(d.HostInterface) > 15 || !n.CIDR.Contains(d.Address) || seen[d.Address] {
			t.Fatalf("device %d: %+v", i, d)
		}
		seen[d.Address] = true
	}
}

// A device reaches the gateway's port and nothing else; nothing reaches the device.
func TestDeviceNetwork(t *testing.T) {
	if !isRoot() {
		t.Skip("only root can make network namespaces")
	}
	network, err := chooseNetwork(clusterID(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	gateway, other := listenTCP(t, "0.0.0.0:0"), listenTCP(t, "0.0.0.0:0")
	socket := filepath.Join(t.TempDir(), "sock")
	p, err := supervisor.Launch(t.Context(), []string{os.Args[0]}, append(os.Environ(), "LOCAL_TEST_SOCKET="+socket), socket,
		filepath.Join(t.TempDir(), "log"), true)
	if err != nil {
		t.Fatal(err)
	}
	d := Device{Name: "device-1", Index: 1}
	network.nameDevice(clusterID(socket), &d)
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		p.WaitGone(10 * time.Second)
		for range 2 { // again is no error
			if err := disconnect(&d); err != nil {
				t.Error(err)
			}
		}
		if _, err := netlink.LinkByName(d.HostInterface); err == nil {
			t.Errorf("%s is left", d.HostInterface)
		}
		if _, err := os.Stat(filepath.Join(netnsDir, d.NetworkNamespace)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", d.NetworkNamespace, err)
		}
	})
	if err := network.connect(&d, p.PID, gateway); err != nil {
		t.Fatal(err)
	}
	dial := func(addr netip.Addr, port int) error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr.String(), strconv.Itoa(port)), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	var inside int
	if err := within(p.PID, func() error {
		if err := dial(network.Gateway, gateway); err != nil {
			t.Errorf("the device does not reach the gateway: %v", err)
		}
		if network.Firewall && dial(network.Gateway, other) == nil {
			t.Error("the device reaches another port")
		}
		if dial(netip.MustParseAddr("192.0.2.2"), other) == nil {
			t.Error("the device reaches another address")
		}
		inside = listenTCP(t, "0.0.0.0:0")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if network.Firewall && dial(d.Address, inside) == nil {
		t.Error("the device can be dialled")
	}
}

// A name can be removed although somebody has run "ip netns add" since it was given.
func TestNamesBesideOthers(t *testing.T) {
	if !isRoot() {
		t.Skip("only root can make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
	d := Device{NetworkNamespace: "aranya-test"}
	steps := []func() error{
		// A machine that has just started, as far as it matters here.
		func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("run", "/run", "tmpfs", 0, "") },

		func() error { return publishNamespace(d.NetworkNamespace, os.Getpid()) },
		func() error { return exec.Command("ip", "netns", "add", "other").Run() },
		func() error { return disconnect(&d) },
		func() error { return publishNamespace(d.NetworkNamespace, os.Getpid()) },
		func() error { return disconnect(&d) },
	}
	failed := make(chan error)
	go func() {
		defer close(failed)
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		for i, step := range steps {
			if err := step(); err != nil {
				failed <- fmt.Errorf("step %d: %w", i, err)
				return
			}
		}
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// listenTCP listens until the test ends and returns the port.
func listenTCP(t *testing.T, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}
