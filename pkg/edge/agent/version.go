package agent

// Version of the agent. Release builds set it with
// -ldflags "-X arhat.dev/aranya/pkg/edge/agent.Version=1.2.3".
var Version = "0.0.0-dev"
