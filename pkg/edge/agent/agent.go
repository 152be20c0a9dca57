// Package agent is the device end of aranya: it wires the uplink, the pod manager, the host and the
// node reports together. Each of them lives in a package of its own below; what is here decides only
// who talks to whom, and in which order messages leave.
package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/eviction"
	"arhat.dev/aranya/pkg/edge/agent/footprint"
	"arhat.dev/aranya/pkg/edge/agent/host"
	"arhat.dev/aranya/pkg/edge/agent/images"
	"arhat.dev/aranya/pkg/edge/agent/links"
	"arhat.dev/aranya/pkg/edge/agent/node"
	"arhat.dev/aranya/pkg/edge/agent/pods"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/cri"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process"
	"arhat.dev/aranya/pkg/edge/agent/seal"
	"arhat.dev/aranya/pkg/edge/agent/static"
	"arhat.dev/aranya/pkg/edge/agent/stats"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/version"
)

// Names in the state directory.
const (
	dirPods      = "pods"
	dirProcess   = "process"
	dirSeccomp   = "seccomp"
	fileLock     = "arhat.lock"
	fileMemories = "welcome.json"
	fileOwner    = "owner"
	fileSecret   = "secret"
)

// When memory is given back: after the start, and then from time to time.
const (
	trimAfter  = 10 * time.Second
	trimPeriod = 10 * time.Minute
)

// Agent runs on a device.
type Agent struct {
	config   *config.Configuration
	lock     *os.File
	joined   *uplink.Joined // nil if the device did not enrol just now
	runtime  runtime.Runtime
	pods     *pods.Manager
	images   *images.Collector
	eviction *eviction.Manager
	static   *static.Source // nil without a folder
	host     *host.Host
	node     *node.Collector
	stats    *stats.Collector
	uplink   *uplink.Client
	outbox   *outbox
	link     connection
	seams    Seams
}

// New prepares an agent of an enrolled device; the configuration must have passed Finish. It takes
// the state directory for itself until Run returns, or Close if Run is not called.
func New(ctx context.Context, cfg *config.Configuration, seams Seams) (*Agent, error) {
	a := &Agent{config: cfg, outbox: newOutbox(), seams: seams}
	if err := a.build(ctx); err != nil {
		return nil, errors.Join(err, a.Close(ctx))
	}
	return a, nil
}

func (a *Agent) build(ctx context.Context) error {
	if err := a.lockState(); err != nil {
		return err
	}
	if err := diskfile.Clean(a.config.StateDir); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot remove what an earlier run has left in the state directory")
	}
	a.warn(ctx)
	// First of all, because without an identity nothing else is of use.
	var err error
	if a.seams.Enrol != nil {
		if a.joined, err = a.seams.Enrol(ctx); err != nil {
			return err
		}
	}
	if a.uplink, err = a.newUplink(); err != nil {
		return err
	}
	key, err := a.sealKey(ctx)
	if err != nil {
		return err
	}
	if a.runtime, err = a.newRuntime(ctx); err != nil {
		return err
	}
	a.node = node.New(node.Config{
		Runtime: a.runtime, Reserved: a.reserved, NodeIP: a.config.NodeIP,
		StateDir: a.config.StateDir, Version: version.String(), Pressure: a.underPressure, Period: a.seams.Period,
		Machine: a.seams.Machine.node,
	})
	a.link.remembered = a.recall(ctx)
	a.node.SetPodCapacity(a.link.remembered.PodCapacity)
	status, _ := a.node.Refresh(ctx)
	if err := a.checkReserved(status.Capacity); err != nil {
		return err
	}
	owner, err := a.owner(ctx)
	if err != nil {
		return err
	}
	a.stats = stats.New(stats.Config{
		Runtime: a.runtime, Labels: map[string]string{podutil.LabelManagedBy: owner}, StateDir: a.config.StateDir,
		Local:   func(podUID string) stats.LocalPaths { return a.pods.LocalPaths(podUID) },
		Machine: a.seams.Machine.stats,
	})
	a.stats.SetNodeName(a.link.remembered.NodeName)
	if a.pods, err = pods.New(pods.Config{
		Runtime: a.runtime, StateDir: filepath.Join(a.config.StateDir, dirPods), LogDir: a.config.LogDir, Owner: owner, Key: key,
		SeccompDir: seccompDir(a.config.StateDir), AgentRights: a.config.Runtime == config.RuntimeProcess,
		Node: a.nodeInfo(), Sink: a.outbox, Admit: a.admit, AllowsHostPath: hostPaths(&a.config.Policy),
		RelistPeriod: a.seams.Period, ResolvConf: a.config.ResolvConf,
		LogMaxSize: a.config.LogMaxBytes(), LogMaxFiles: *a.config.ContainerLogMaxFiles,
		Cgroups: a.cgroups(owner), PodPIDs: *a.config.PodPidsLimit,
	}); err != nil {
		return err
	}
	a.keepHouse(ctx)
	a.static = a.newStatic()
	a.readStatic(ctx)
	a.host = host.New(host.Config{
		Policy: &a.config.Policy, Shell: a.config.Shell, AgentLog: agentLog(&a.config.Logging.File),
		Pods: a.pods, Runtime: a.runtime, Summary: a.stats.Summary,
	})
	return nil
}

// warn tells of what is wrong with the configuration but may come right, and must not keep the device from connecting.
func (a *Agent) warn(ctx context.Context) {
	logger := klog.FromContext(ctx)
	if a.seams.Dialer == nil {
		if err := links.Check(a.config); err != nil {
			logger.Error(err, "The device cannot connect as it is configured")
		}
	}
	if ip := a.config.NodeIP; ip != "" && !node.HasAddress(ip) {
		logger.Info("No interface of the device has the address that is configured as nodeIP. Pods are shown with it all the same", "nodeIP", ip)
	}
}

func (a *Agent) newUplink() (*uplink.Client, error) {
	c := uplink.Config{Server: a.config.Server, StateDir: a.config.StateDir, Handler: a, Dialer: a.seams.Dialer, Joined: a.joined}
	if c.Dialer == nil && c.Joined == nil {
		device, err := uplink.LoadDevice(a.config.StateDir)
		if err != nil {
			return nil, err
		}
		dialer := links.New(a.config, device)
		c.Server, c.Dialer = dialer.String(), dialer
	}
	return uplink.New(c)
}

func (a *Agent) newRuntime(ctx context.Context) (runtime.Runtime, error) {
	if a.seams.Runtime != nil {
		return a.seams.Runtime, nil
	}
	if a.config.Runtime != config.RuntimeProcess {
		return cri.New(ctx, a.config.Runtime)
	}
	r, err := process.New(ctx, process.Options{
		StateDir: filepath.Join(a.config.StateDir, dirProcess), Version: version.String(),
		HostIP: func() string { return node.HostIPs(a.config.NodeIP)[0] },
	})
	if err != nil {
		return nil, err // a nil *process.Runtime would be an interface that is not nil
	}
	return r, nil
}

// sealKey is what the state is sealed with.
func (a *Agent) sealKey(ctx context.Context) (*seal.Key, error) {
	if a.config.SecretFile != "" {
		key, err := seal.Load(a.config.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("%w (secretFile in arhat.yaml)", err)
		}
		return key, nil
	}
	key, lost, err := seal.LoadOrCreate(filepath.Join(a.config.StateDir, fileSecret))
	if lost != nil {
		klog.FromContext(ctx).Error(lost, "The device's secret was lost: pods come back when the cloud sends them again")
		a.reportLoss(lost)
	}
	return key, err
}

// reportLoss tells the cloud, when there is a link, what the device has lost of its own state.
func (a *Agent) reportLoss(err error) {
	a.outbox.Event(&edgeapi.Event{
		Type: v1.EventTypeWarning, Reason: pods.ReasonCorruptState, Message: err.Error(), TimeMs: time.Now().UnixMilli(),
	})
}

// lockState keeps a second agent away from the same state.
func (a *Agent) lockState() error {
	if err := os.MkdirAll(a.config.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory: %w (stateDir in arhat.yaml)", err)
	}
	if a.seams.Shared {
		return nil
	}
	path := filepath.Join(a.config.StateDir, fileLock)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot use the state directory: %w (stateDir in arhat.yaml)", err)
	}
	a.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another arhat works with the state directory %s: stop it, or give this one a stateDir of its own", a.config.StateDir)
	}
	return nil
}

// seccompDir is where localhost seccomp profiles lie: also where older agents looked for them, if they lie only there.
func seccompDir(stateDir string) string {
	dir, old := filepath.Join(stateDir, dirSeccomp), filepath.Join(stateDir, dirPods, dirSeccomp)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(old); err == nil {
			return old
		}
	}
	return dir
}

// cgroups are where those of pods are; nil if nothing here has the kernel confine its containers.
func (a *Agent) cgroups(owner string) *cgroups.Manager {
	if a.seams.Runtime != nil || a.config.Runtime == config.RuntimeProcess {
		return nil
	}
	root := cgroups.DefaultRoot
	if id, ok := strings.CutPrefix(owner, pods.DefaultOwner+"-"); ok {
		root += "_" + id
	}
	return cgroups.New(cgroups.DefaultMount, root)
}

func agentLog(f *config.LoggingFile) string {
	if f.Disabled {
		return ""
	}
	return f.Path
}

// Run works until ctx ends, and returns when everything it started has ended. Pods keep running.
func (a *Agent) Run(ctx context.Context) error {
	klog.FromContext(ctx).Info("Starting", "version", version.String(), "device", a.uplink.Device(), "server", a.config.Server, "runtime", a.config.Runtime)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.pods.Run(groupCtx) })
	group.Go(func() error {
		a.node.Run(groupCtx, a.nodeChanged)
		return nil
	})
	if a.static != nil {
		group.Go(func() error {
			a.static.Run(groupCtx)
			return nil
		})
	}
	group.Go(func() error {
		a.images.Run(groupCtx)
		return nil
	})
	group.Go(func() error {
		a.eviction.Run(groupCtx)
		return nil
	})
	group.Go(func() error { return a.uplink.Run(groupCtx) })
	if !a.seams.Shared {
		group.Go(func() error {
			footprint.Run(groupCtx, trimAfter, trimPeriod)
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		err = nil
	}
	klog.FromContext(ctx).Info("Stopped; pods keep running")
	return errors.Join(err, a.Close(context.WithoutCancel(ctx)))
}

// Close lets go of the link, the runtime and the state directory. Run does it too.
func (a *Agent) Close(ctx context.Context) error {
	var errs []error
	a.joined.Close()
	if a.stats != nil {
		a.stats.Close()
	}
	if a.runtime != nil {
		errs = append(errs, a.runtime.Close(ctx))
		a.runtime = nil
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
		a.lock = nil
	}
	return errors.Join(errs...)
}

// nodeChanged is called after each change of the device's status.
func (a *Agent) nodeChanged(status *v1.NodeStatus) {
	a.pods.SetNode(a.nodeInfo())
	if message := encodeNode(status); message != nil {
		a.outbox.NodeStatus(message)
	}
}
