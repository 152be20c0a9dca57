// Package agent is the device end of aranya: it wires the uplink, the pod manager, the host and the
// node reports together. Each of them lives in a package of its own below; what is here decides only
// who talks to whom, and in which order messages leave.
package agent

import (
	"context"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

// Agent runs on a device.
type Agent struct {
	config *config.Configuration
}

// New prepares an agent; the configuration must have passed Finish. Run does the work.
func New(cfg *config.Configuration) (*Agent, error) {
	return &Agent{config: cfg}, nil
}

// Run works until ctx ends, and returns when everything it started has ended. Pods keep running.
func (a *Agent) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
