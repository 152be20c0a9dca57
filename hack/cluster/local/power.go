package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// bootIDFile is where the kernel tells one boot of a machine from the next.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// containerdVolatile is what containerd and runc keep on a tmpfs, which no reboot survives.
var containerdVolatile = []string{"state", "runc"}

// PowerOff ends a device as a power failure does: every process of its machine dies at the same moment,
// and what only memory held, mounts, network, cgroups and the runtime's state, is gone. Its disk stays.
// Only a machine of its own can be switched off.
func (c *Cluster) PowerOff(_ context.Context, name string) error {
	d, err := c.isolated(name)
	if err != nil {
		return err
	}
	// The init process of a pid namespace takes everything in it along.
	machine := c.supervisor(name)
	if err := machine.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("device %s: %w", name, err)
	}
	if !machine.WaitGone(30 * time.Second) {
		return fmt.Errorf("device %s: its init process %d does not end", name, machine.PID)
	}
	errs := []error{disconnect(&d), c.removeCgroups(name)} // the cgroups are found by the runtime's state
	if c.State().Runtime == RuntimeContainerd {
		for _, dir := range containerdVolatile {
			errs = append(errs, os.RemoveAll(c.devicePath(name, "containerd", dir)))
		}
	}
	return errors.Join(errs...)
}

// Boot starts a device that was powered off, as a new boot of the same machine: with another boot id, and
// with container runtime and agent at the same time.
func (c *Cluster) Boot(ctx context.Context, name string) error {
	d, err := c.isolated(name)
	if err != nil {
		return err
	}
	if err := c.startMachine(ctx, &d); err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	if c.State().Runtime == RuntimeContainerd {
		if _, err := c.launchContainerd(ctx, &d); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	return c.launchAgent(ctx, &d, "run")
}

// Unplug cuts the cable between a device and everything else. Nobody is told: what is sent from now on is
// lost on the way. It stays cut when the device reboots.
func (c *Cluster) Unplug(name string) error {
	link, _, err := c.cable(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return err
	}
	return c.update(func(s *State) { s.device(name).Unplugged = true })
}

// PlugIn undoes Unplug.
func (c *Cluster) PlugIn(name string) error {
	link, d, err := c.cable(name)
	if err != nil {
		return err
	}
	if err := plugIn(&d, link); err != nil {
		return err
	}
	return c.update(func(s *State) { s.device(name).Unplugged = false })
}

// cable is this machine's end of the link to a device.
func (c *Cluster) cable(name string) (netlink.Link, Device, error) {
	d, err := c.isolated(name)
	if err != nil {
		return nil, d, err
	}
	link, err := netlink.LinkByName(d.HostInterface)
	if err != nil {
		return nil, d, fmt.Errorf("device %s: %w", name, err)
	}
	return link, d, nil
}

// isolated returns a device that is a machine of its own.
func (c *Cluster) isolated(name string) (Device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.state.device(name)
	switch {
	case d == nil:
		return Device{}, fmt.Errorf("there is no device %s", name)
	case c.state.Network == nil:
		return Device{}, fmt.Errorf("device %s shares this machine with others: only root can make it one of its own", name)
	}
	return *d, nil
}

// newBoot gives a machine that is about to start a boot id of its own.
func (c *Cluster) newBoot(d *Device, isolation *supervisor.Isolation) error {
	source := c.devicePath(d.Name, "boot_id")
	if err := os.WriteFile(source, []byte(uuid.NewString()+"\n"), 0o444); err != nil {
		return err
	}
	isolation.Binds[bootIDFile] = source
	return nil
}
