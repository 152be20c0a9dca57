package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// mountPointParents are where missing mount points are made on the host, empty, and removed with the
// last container that uses them. Elsewhere they would be litter in the system's own directories.
var mountPointParents = []string{"/run", "/tmp", "/var/tmp", "/mnt", "/var/run"}

// terminationLog is where pods usually report why they end. It is made like the mount points above,
// although it lies among the devices.
const terminationLog = "/dev/termination-log"

// mountEnvPrefix begins the variables that tell a container where the content of its mounts is, on
// devices where it cannot have mounts.
const mountEnvPrefix = "ARHAT_MOUNT_"

// serviceAccountPath is the mount that nearly every pod has without asking for it.
const serviceAccountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// mountsOf translates the mounts of a container.
func (r *Runtime) mountsOf(config *runtimeapi.ContainerConfig, spec *shim.Spec) error {
	for _, m := range config.Mounts {
		switch {
		case m.GetImage().GetImage() != "":
			return fmt.Errorf("the volume at %s is an image: the process runtime has none", m.ContainerPath)
		case m.Propagation == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return fmt.Errorf("the mount at %s has bidirectional propagation, which the process runtime does not support: use HostToContainer", m.ContainerPath)
		case m.RecursiveReadOnly:
			return fmt.Errorf("the mount at %s is recursively read-only, which the process runtime does not support", m.ContainerPath)
		case !filepath.IsAbs(m.ContainerPath) || filepath.Clean(m.ContainerPath) == "/":
			return fmt.Errorf("%q cannot be a mount point: it must be an absolute path below \"/\"", m.ContainerPath)
		}
		spec.Mounts = append(spec.Mounts, shim.Mount{
			Source: m.HostPath, Target: filepath.Clean(m.ContainerPath), ReadOnly: m.Readonly,
			HostToContainer: m.Propagation == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		})
	}
	if len(spec.Mounts) == 0 {
		return nil
	}
	spec.Mode = r.mountMode
	if spec.Mode == shim.MountNone {
		return r.announceMounts(spec)
	}
	return nil
}

// mountsDenied says why containers get no mounts, and what to do about it.
func mountsDenied(err error) error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("the agent runs as root, but the system does not let it mount (%w); give arhat CAP_SYS_ADMIN", err)
	}
	return fmt.Errorf("the agent does not run as root, and the system denies it user namespaces (%w); run arhat as root or allow unprivileged user namespaces", err)
}

// announceMounts makes do without mounts: the container finds the service account and the
// termination log by variables. Other volumes are refused, because a program that does not find its
// data might begin anew elsewhere.
func (r *Runtime) announceMounts(spec *shim.Spec) error {
	for _, m := range spec.Mounts {
		same := m.Source == m.Target
		if !same && m.Target != serviceAccountPath && m.Target != terminationLog && m.Target != "/etc/hosts" && m.Target != "/etc/resolv.conf" {
			return fmt.Errorf("a volume cannot be mounted at %s: %w", m.Target, r.mountErr)
		}
		name := strings.Map(func(c rune) rune {
			if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
				return c
			}
			return '_'
		}, strings.ToUpper(strings.TrimPrefix(m.Target, "/")))
		spec.Env = append(spec.Env, mountEnvPrefix+name+"="+m.Source)
	}
	spec.Mounts = nil
	return nil
}

// mountPointMark is an extended attribute of the mount points that were made here. All agents on a
// machine share them: the last one removes them.
const mountPointMark = "trusted.arhat"

// makeMountPoints makes what is missing on the host for the mounts of a container, and records every
// path that was made in this way, now or before, and that the container depends on. It holds the mount
// points until the shim does, see shim.Spec. Runtime.mu is held.
func (r *Runtime) makeMountPoints(c *container) error {
	targets := make([]string, 0, len(c.spec.Mounts))
	for _, m := range c.spec.Mounts {
		targets = append(targets, m.Target)
	}
	for _, m := range c.spec.Mounts {
		if belowAnother(m.Target, targets) {
			continue // a mount point inside another mount is made in there
		}
		parent, missing, err := shim.NearestExisting(m.Target)
		if err != nil {
			return fmt.Errorf("cannot mount at %s: %w", m.Target, err)
		}
		if len(missing) > 0 {
			if err := r.makeMountPoint(m, parent, missing, &c.mountPoints); err != nil {
				return err
			}
		}
		if err := c.holdMountPoint(m.Target); err != nil {
			return fmt.Errorf("cannot mount at %s: %w", m.Target, err)
		}
	}
	slices.Sort(c.mountPoints)
	c.mountPoints = slices.Compact(c.mountPoints)
	return nil
}

// holdMountPoint keeps others from removing a mount point that was made.
func (c *container) holdMountPoint(target string) error {
	path, missing, err := shim.NearestExisting(target)
	if err != nil || len(missing) > 0 {
		return err
	}
	for p := path; isMarked(p); p = filepath.Dir(p) {
		c.mountPoints = append(c.mountPoints, p)
	}
	if !slices.Contains(c.mountPoints, path) {
		return nil // it is the host's own
	}
	f, err := shim.LockShared(path)
	if err != nil {
		return err
	}
	c.spec.Locks = append(c.spec.Locks, path)
	c.held = append(c.held, f)
	return nil
}

func isMarked(path string) bool {
	n, err := unix.Lgetxattr(path, mountPointMark, nil)
	return err == nil && n > 0
}

// letGo is for when the shim holds the mount points, or nobody needs them.
func (c *container) letGo() {
	for _, f := range c.held {
		_ = f.Close()
	}
	c.held = nil
}

func (r *Runtime) makeMountPoint(m shim.Mount, parent string, missing []string, made *[]string) error {
	source, err := os.Stat(m.Source)
	if err != nil {
		return fmt.Errorf("cannot mount at %s: %w", m.Target, err)
	}
	path := filepath.Join(append([]string{parent}, missing...)...)
	allowed := path == terminationLog || slices.ContainsFunc(mountPointParents, func(p string) bool { return strings.HasPrefix(path, p+"/") })
	if allowed {
		_, err = shim.MakeMountPoint(parent, missing, source.IsDir(), func(p string) {
			*made = append(*made, p)
			// Without the mark (not root, or a file system without) it works the same for one agent.
			_ = unix.Lsetxattr(p, mountPointMark, []byte("1"), 0)
		})
		if err == nil || r.mountMode == shim.MountNamespace {
			return err
		}
	}
	// The shim of a user without privileges helps itself below a directory.
	if r.mountMode == shim.MountUserNamespace && parent != "/" {
		return nil
	}
	return fmt.Errorf("cannot mount at %s: it does not exist on the device, and is only made below %s; create it on the device, or choose another mountPath", m.Target, strings.Join(mountPointParents[:4], ", "))
}

func belowAnother(target string, targets []string) bool {
	return slices.ContainsFunc(targets, func(t string) bool { return strings.HasPrefix(target, t+"/") })
}

// removeMountPoints removes the mount points that no other container uses, of this agent or another.
// Removing one that is in use would unmount it there, so this matters. Runtime.mu is held, and c is
// not in r.containers.
func (r *Runtime) removeMountPoints(c *container) {
	c.letGo()
	inUse := map[string]bool{}
	for _, other := range r.containers {
		for _, p := range other.mountPoints {
			inUse[p] = true
		}
	}
	for _, p := range slices.Backward(slices.Sorted(slices.Values(c.mountPoints))) {
		if inUse[p] {
			continue
		}
		if err := removeMountPoint(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.logger.V(2).Info("A mount point stays", "path", p, "reason", err)
		}
	}
}

// removeMountPoint leaves what is not empty: somebody else put that there.
func removeMountPoint(path string) error {
	f, err := shim.LockExclusive(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() && info.Size() > 0 {
		return errors.New("it is not empty")
	}
	return os.Remove(path)
}
