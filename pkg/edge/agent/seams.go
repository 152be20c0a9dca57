package agent

import (
	"context"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/node"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/stats"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/version"
)

// Seams are what an agent is given instead of making it or taking it from the machine that it runs on, most
// of it for a program that runs many agents (hack/simulator). The zero value is a device.
type Seams struct {
	// Enrol enrols the device, once no other agent works with its state, and returns the link for the agent to
	// go on with and to close; nil if the device is enrolled already.
	Enrol func(context.Context) (*uplink.Joined, error)
	// Runtime runs the containers instead of the one that the configuration names. The agent closes it.
	Runtime runtime.Runtime
	// Dialer reaches the server instead of the links of the configuration.
	Dialer link.Dialer
	// Period is how often runtime and machine are looked at. 0: as often as on a device.
	Period time.Duration
	// Machine is what the agent takes for the machine, measured once, instead of looking at it all the time.
	Machine Machine
	// Shared says that the process is not the agent's own: its memory is left alone, and who starts the
	// agents sees to it that no two have one state directory.
	Shared bool
}

// Machine is a machine as it was at one moment. Agents may share it. The zero value is the real machine.
type Machine struct {
	node  *node.Snapshot
	stats *stats.Snapshot
}

// MeasureMachine measures the machine that this program runs on. The state of the agents lies in the
// file system of dir.
func MeasureMachine(dir string) Machine {
	return Machine{node: node.TakeSnapshot(dir, version.String()), stats: stats.TakeSnapshot()}
}
