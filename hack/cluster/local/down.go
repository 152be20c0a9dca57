package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// stopTimeout bounds how long a supervisor may take to stop its services before all is killed.
const stopTimeout = 40 * time.Second

// Down stops the cluster in dir: exactly what Up started, and whatever descends from that. Logs and
// data stay, unless purge is set. It is no error if nothing runs.
func Down(ctx context.Context, dir string, purge bool, out io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		_, _ = fmt.Fprintf(out, "There is no cluster in %s.\n", dir)
		return nil
	}
	state, err := loadState(dir)
	if errors.Is(err, errNoCluster) {
		_, _ = fmt.Fprintf(out, "There is no cluster in %s.\n", dir)
		return nil
	} else if err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	c := &Cluster{Dir: dir, out: out, state: state}
	if err := c.stop(ctx); err != nil {
		return err
	}
	if !purge {
		_, _ = fmt.Fprintf(out, "The cluster in %s is down. Its logs stay there until it is brought up again.\n", dir)
		return nil
	}
	if err := errors.Join(c.purge(), os.Remove(c.path(lockFile))); err != nil {
		return err
	}
	// Not if the user has put something there.
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// stop ends all processes, devices first so that they can say goodbye, and removes what they leave on
// the machine.
func (c *Cluster) stop(ctx context.Context) error {
	var errs []error
	collect := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var mu sync.Mutex
	var devices errgroup.Group
	devices.SetLimit(8)
	for name := range c.state.Supervisors {
		if name == Cloud {
			continue
		}
		devices.Go(func() error {
			err := c.stopGroup(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			collect(err)
			return nil
		})
	}
	_ = devices.Wait()
	collect(c.stopGroup(ctx, Cloud))
	collect(c.killStrays())
	for i := range c.state.Devices {
		collect(disconnect(&c.state.Devices[i]))
		collect(c.removeCgroups(c.state.Devices[i].Name))
	}
	if c.state.MadeCNIDir {
		_ = os.Remove(cniDir) // unless somebody else uses it by now
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return c.update(func(s *State) {
		s.Supervisors, s.Devices, s.Network, s.MadeCNIDir = nil, nil, nil, false
	})
}

// stopGroup ends a supervisor with all that descends from it.
func (c *Cluster) stopGroup(ctx context.Context, group string) error {
	p := c.state.Supervisors[group]
	if !p.Alive() {
		return nil
	}
	descendants := supervisor.Descendants(p.PID)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := supervisor.NewClient(c.socket(group)).Shutdown(ctx); err != nil {
		_ = p.Signal(syscall.SIGTERM)
	}
	if !p.WaitGone(stopTimeout) {
		// As the init process of a pid namespace it takes everything with it; otherwise the others are
		// killed one by one.
		_ = p.Signal(syscall.SIGKILL)
	}
	for _, d := range descendants {
		_ = d.Signal(syscall.SIGKILL)
	}
	for _, d := range append(descendants, p) {
		if !d.WaitGone(10 * time.Second) {
			return fmt.Errorf("process %d of %s does not end", d.PID, group)
		}
	}
	return nil
}

// killStrays kills processes of this cluster that lost their supervisor, for example because that was
// killed. They are known by a variable in their environment.
func (c *Cluster) killStrays() error {
	mark := clusterVariable + "=" + c.state.ID
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range procs {
		env, err := os.ReadFile(path)
		if err != nil || !containsVariable(string(env), mark) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		p, err := supervisor.FindProcess(pid)
		if err != nil {
			continue
		}
		_ = p.Signal(syscall.SIGKILL)
		if !p.WaitGone(10 * time.Second) {
			return fmt.Errorf("process %d does not end", pid)
		}
	}
	return nil
}

func containsVariable(environ, variable string) bool {
	for kv := range strings.SplitSeq(environ, "\x00") {
		if kv == variable {
			return true
		}
	}
	return false
}

// purge removes the files of the cluster but the lock, and nothing else that may lie in its directory. The state goes
// last: as long as it is there, the rest is known to be a cluster's.
func (c *Cluster) purge() error {
	var errs []error
	for _, name := range contents() {
		errs = append(errs, os.RemoveAll(c.path(name)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(c.path(stateFile))
}
