package pods

import (
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/seal"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// Defaults of Config.
const (
	DefaultLogDir       = "/var/log/pods"
	DefaultOwner        = "arhat"
	DefaultRelistPeriod = time.Second
	DefaultSystemdSlice = "arhat.slice"
	DefaultLogMaxSize   = 10 << 20
	DefaultLogMaxFiles  = 5
)

// Config says how a Manager runs pods.
type Config struct {
	// Runtime runs the containers. Required.
	Runtime runtime.Runtime
	// AgentRights says that Runtime mounts volumes with no other rights than the agent has.
	AgentRights bool
	// StateDir holds the record of the desired pods, their volumes, hosts files and termination
	// messages. Required; created with mode 0700 if it does not exist.
	StateDir string
	// SeccompDir is where localhost seccomp profiles lie.
	SeccompDir string
	// Key seals the record of the desired pods. Required.
	Key *seal.Key
	// LogDir holds the containers' logs as <namespace>_<name>_<uid>/<container>/<restart>.log.
	// Defaults to /var/log/pods.
	LogDir string
	// Owner marks the sandboxes and containers of this agent in the runtime. Others are never
	// touched; give each agent that shares a runtime its own. Defaults to "arhat".
	Owner string
	// ResolvConf is the resolver configuration that pods get. Defaults to the device's own or, for pods with
	// a network of their own, what systemd-resolved behind that uses.
	ResolvConf string
	// Node is what is known of the device at start, see SetNode.
	Node NodeInfo
	// Sink is told what happens. Required.
	Sink Sink
	// Clock defaults to the real one.
	Clock clock.WithTicker
	// Admit may refuse a pod under the device's own policy or, unless it is known here, for want of
	// resources. The reason is one CamelCase word. It is asked at each start of the agent and whenever the
	// cloud changes the pod, for each ephemeral container by itself. It may be nil.
	Admit func(pod *v1.Pod, known bool) (reason, message string, ok bool)
	// AllowsHostPath tells whether a hostPath volume may be at a path without symbolic links. It is asked at
	// each start of a container. Nil: anywhere.
	AllowsHostPath func(path string) bool
	// RelistPeriod is how often the runtime is looked at. Defaults to 1 s.
	RelistPeriod time.Duration
	// LogMaxSize in bytes is when a container's log is rotated, LogMaxFiles how many files are kept of one
	// instance of a container, the one being written included. They default to 10 MiB and 5.
	LogMaxSize  int64
	LogMaxFiles int
	// Cgroups gives each pod a cgroup of its own. Nil: pods have none.
	Cgroups *cgroups.Manager
	// PodPIDs is how many processes and threads a pod may have; 0 or less is as many as the device has.
	PodPIDs int64
}

// NodeInfo is what pods may know of the device, and what their status says about it.
type NodeInfo struct {
	// Name of the device's Node.
	Name string
	// HostIPs of the device, primary first, at most one per address family.
	HostIPs []string
	// Capacity and Allocatable resources: for oom scores, and the defaults of resourceFieldRef.
	Capacity, Allocatable v1.ResourceList
	// PodDNS is for pods with dnsPolicy ClusterFirst. Nil or without nameservers: the device's own resolver.
	PodDNS *v1.PodDNSConfig
}

// Sink is told what happens to pods. Calls come from many goroutines; calls about one pod come in
// order. A call must not block on the link: what is lost while the link is down is sent again by
// ResendStatuses.
type Sink interface {
	PodStatus(*edgeapi.PodStatus)
	PodRemoved(*edgeapi.PodRemoved)
	Event(*edgeapi.Event)
	// StaticPods are all static pods of the moment.
	StaticPods(*edgeapi.StaticPods)
}

func (c *Config) complete() error {
	switch {
	case c.Runtime == nil:
		return errors.New("pods: Config.Runtime is required")
	case c.StateDir == "":
		return errors.New("pods: Config.StateDir is required")
	case c.Key == nil:
		return errors.New("pods: Config.Key is required")
	case c.Sink == nil:
		return errors.New("pods: Config.Sink is required")
	}
	if c.LogDir == "" {
		c.LogDir = DefaultLogDir
	}
	if c.Owner == "" {
		c.Owner = DefaultOwner
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.RelistPeriod <= 0 {
		c.RelistPeriod = DefaultRelistPeriod
	}
	if c.LogMaxSize <= 0 {
		c.LogMaxSize = DefaultLogMaxSize
	}
	if c.LogMaxFiles <= 1 {
		c.LogMaxFiles = DefaultLogMaxFiles
	}
	return nil
}
