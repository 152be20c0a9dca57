package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// clusterVariable marks the processes of a cluster by their environment.
const clusterVariable = "ARANYA_CLUSTER"

// Up brings a cluster up. One that is up already gets the devices it lacks. If it fails, what it has
// started is stopped again; the log files stay. A cluster that was brought down starts anew: nothing
// of the last one is kept.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := checkDir(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, running, err := prepare(&o)
	if err != nil {
		return nil, err
	}
	if err := c.bringUp(ctx, &o, running); err != nil {
		if running {
			return nil, err
		}
		_, _ = fmt.Fprintf(o.Out, "  stopping what was started; the logs stay in %s and %s\n", c.path("logs"), c.path("devices"))
		return nil, errors.Join(err, c.stop(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// dirs are what a cluster has in its directory, beside files.
var dirs = []string{"bin", "etcd", "home", "kubeconfigs", "logs", "pki", groupFile, "aranya", "broker", "devices", "manifests"}

// contents are all that a cluster has in its directory, but its state and the lock.
func contents() []string { return append([]string{kubeconfigFile}, dirs...) }

// checkDir refuses a directory without a cluster in which a cluster's files would get among those of others: with
// the next cluster they would go.
func checkDir(dir string) error {
	if _, err := loadState(dir); !errors.Is(err, errNoCluster) {
		return err
	}
	for _, name := range contents() {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("DIR=%s: there is no cluster, but %s is there already, which a cluster would replace; "+
				"choose an empty directory or one that does not exist", dir, path)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func makeDirs(dir string) error {
	for _, name := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// prepare reads or makes the state of a cluster. The result running says whether it is up.
func prepare(o *Options) (c *Cluster, running bool, err error) {
	c = &Cluster{Dir: o.Dir, out: o.Out}
	state, err := loadState(o.Dir)
	switch {
	case errors.Is(err, errNoCluster):
		state = &State{ID: clusterID(o.Dir)}
	case err != nil:
		return nil, false, err
	}
	c.state = state
	running = state.Supervisors[Cloud].Alive()
	if running {
		for _, conflict := range [][3]string{{"RUNTIME", o.Runtime, state.Runtime}, {"LINK", o.Link, state.Link}, {"ETCD", o.Etcd, state.Etcd}} {
			if conflict[1] != conflict[2] {
				return nil, false, fmt.Errorf("the cluster in %s is up with %s=%s; run make down first to change it to %s",
					o.Dir, conflict[0], conflict[2], conflict[1])
			}
		}
		return c, true, nil
	}
	if err := c.clear(); err != nil {
		return nil, false, err
	}
	if err := c.renew(o); err != nil {
		return nil, false, err
	}
	// The state comes first: whatever is in the directory without it is not a cluster's.
	if err := state.save(o.Dir); err != nil {
		return nil, false, err
	}
	return c, false, makeDirs(o.Dir)
}

// clear removes what is left of a cluster that is no more.
func (c *Cluster) clear() error {
	if c.state.Supervisors != nil {
		// It was not brought down, or not all of it.
		if err := c.stop(context.Background()); err != nil {
			return fmt.Errorf("clear away what is left of the last run: %w", err)
		}
	}
	return c.purge() // nothing, if there never was one: see checkDir
}

// renew makes the state that of a cluster to be brought up.
func (c *Cluster) renew(o *Options) (err error) {
	state := c.state
	state.Bin, state.Source, state.Runtime, state.Link, state.Etcd = o.Bin, o.Source, o.Runtime, o.Link, o.Etcd
	state.ExtraArgs = o.ExtraArgs
	state.NamespaceTaint = o.NamespaceTaint
	state.Supervisors = map[string]supervisor.Process{}
	state.Devices, state.Guests = nil, nil
	p := &state.Ports
	*p = Ports{Kubelet: o.KubeletPort}
	if err := freePorts(&p.Etcd, &p.EtcdPeer, &p.APIServer, &p.ControllerManager, &p.Scheduler, &p.Aranya, &p.Gateway, &p.Kubelet, &p.Broker); err != nil {
		return err
	}
	state.Network = nil
	if isRoot() {
		state.Network, err = chooseNetwork(state.ID)
	}
	return err
}

func (c *Cluster) bringUp(ctx context.Context, o *Options, running bool) error {
	ids, err := c.identities()
	if err != nil {
		return err
	}
	if !running {
		if err := c.links(); err != nil {
			return err
		}
		if err := c.launch(ctx, Cloud, nil); err != nil {
			return err
		}
	}
	if err := c.startKubernetes(ctx, ids); err != nil {
		return err
	}
	if o.KubernetesOnly {
		return nil
	}
	if c.state.Link == LinkMQTT && !running {
		if err := c.startBroker(ctx, ids); err != nil {
			return err
		}
	}
	if err := c.startAranya(ctx, ids); err != nil {
		return err
	}
	return c.startDevices(ctx, o)
}

// links puts kubectl and its plugin where the user is told to look for them.
func (c *Cluster) links() error {
	for name, program := range map[string]string{
		"kubectl":               "kubernetes",
		"kubectl-edge":          "kubectl-edge",
		"kubectl_complete-edge": "kubectl_complete-edge",
	} {
		target := filepath.Join(c.state.Bin, program)
		if _, err := os.Stat(target); err != nil {
			continue
		}
		link := c.path("bin", name)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

// launch starts a supervisor: that of the cloud side, or one that stands for a device.
func (c *Cluster) launch(ctx context.Context, group string, isolation *supervisor.Isolation) error {
	argv := []string{c.program("cluster"), "supervise", "--socket=" + c.socket(group)}
	if isolation != nil {
		argv = append(argv, "--hostname="+isolation.Hostname)
		for target, source := range isolation.Binds {
			argv = append(argv, "--bind="+target+"="+source)
		}
	}
	p, err := supervisor.Launch(ctx, argv, c.serviceEnv(), c.socket(group), c.path("logs", "supervisor-"+group+".log"), isolation != nil)
	if err != nil {
		return err
	}
	return c.update(func(s *State) { s.Supervisors[group] = p })
}
