// Package config is the agent's configuration file: its versioned types, defaults, strict parsing
// and validation. It holds what the file says and what that means (does the policy allow this?), not
// what the agent does with it.
package config

// APIVersion and Kind head every configuration file.
const (
	APIVersion = "arhat.dev/v1alpha1"
	Kind       = "ArhatConfiguration"
)

// RuntimeProcess is the value of Configuration.Runtime that selects the embedded runtime for host
// executables. Every other value is the address of a CRI socket.
const RuntimeProcess = "process"

// Configuration is the content of arhat.yaml. Default fills in what a file leaves out, Validate
// checks the result; a Configuration is not modified after that.
type Configuration struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`

	// Server is aranya's gateway as host:port, or another kind of link, see ParseAddress.
	Server string `yaml:"server,omitempty"`
	// Links are other ways to the same aranya, for when the one before does not work.
	Links []string `yaml:"links,omitempty"`
	// StateDir holds the device's identity, its desired pods and their volumes.
	StateDir string `yaml:"stateDir,omitempty"`
	// SecretFile holds the secret that the state is sealed with, at least 32 bytes: a systemd credential for
	// example, which a TPM can protect. Not set: a file of the agent's own in the state directory.
	SecretFile string `yaml:"secretFile,omitempty"`
	// LogDir holds the logs of containers.
	LogDir string `yaml:"logDir,omitempty"`
	// Runtime is "process" or the address of a CRI socket (unix://...).
	Runtime string `yaml:"runtime,omitempty"`
	// StaticPodPath is a folder with manifests of pods that the device runs by itself. Not set: none.
	StaticPodPath string `yaml:"staticPodPath,omitempty"`
	// NodeIP is the host IP of pods. Empty: the source address of the default route.
	NodeIP string `yaml:"nodeIP,omitempty"`
	// ResolvConf is the resolver configuration that pods get where the cloud does not say otherwise. Empty:
	// the device's own, or what systemd-resolved uses if that is where it leads.
	ResolvConf string `yaml:"resolvConf,omitempty"`
	// Shell is the argument vector that attach to the host runs. Empty: the login shell of the user
	// that the agent runs as.
	Shell []string `yaml:"shell,omitempty"`

	MQTT      MQTT      `yaml:"mqtt,omitempty"`
	WebSocket WebSocket `yaml:"websocket,omitempty"`

	Reserved Reserved `yaml:"reserved,omitempty"`

	Housekeeping `yaml:",inline"`

	Logging Logging `yaml:"logging,omitempty"`
	Policy  Policy  `yaml:"policy,omitempty"`
}

// Reserved are quantities that pods cannot have: capacity minus reserved is allocatable.
type Reserved struct {
	CPU              string `yaml:"cpu,omitempty"`
	Memory           string `yaml:"memory,omitempty"`
	EphemeralStorage string `yaml:"ephemeral-storage,omitempty"`
}

// Logging is about the agent's own log, which goes to standard error and to a file.
type Logging struct {
	// Format is "text" or "json".
	Format string `yaml:"format,omitempty"`
	// Level is "error", "info", "debug" or "trace".
	Level string      `yaml:"level,omitempty"`
	File  LoggingFile `yaml:"file,omitempty"`
}

// LoggingFile is where edgedevices/log reads the agent's log from.
type LoggingFile struct {
	Disabled bool `yaml:"disabled,omitempty"`
	// Path defaults to arhat.log in the state directory.
	Path string `yaml:"path,omitempty"`
	// MaxSize of one file as a quantity; a full file is renamed and a new one begun.
	MaxSize string `yaml:"maxSize,omitempty"`
	// MaxFiles counts the file in use and the renamed ones.
	MaxFiles int `yaml:"maxFiles,omitempty"`
}

// Policy is what the device permits. The cloud side can permit less, never more. Pointers tell a
// value that is not set from false.
type Policy struct {
	HostExec        *bool           `yaml:"hostExec,omitempty"`
	HostAttach      *bool           `yaml:"hostAttach,omitempty"`
	HostLog         HostLog         `yaml:"hostLog,omitempty"`
	HostPortForward HostPortForward `yaml:"hostPortForward,omitempty"`
	// PrivilegedPods permits privileged containers, host PID and IPC, an unmasked /proc, and capabilities beyond the
	// baseline.
	PrivilegedPods *bool `yaml:"privilegedPods,omitempty"`
	// HostPaths are the directories that hostPath volumes may use, themselves included. Empty: no
	// hostPath volumes; "/" permits all.
	HostPaths []string `yaml:"hostPaths,omitempty"`
	// HostNetwork permits pods in the device's own network, and probes and hooks that name a host.
	HostNetwork *bool `yaml:"hostNetwork,omitempty"`
}

// HostLog is about logs of the host. The agent's own log can always be read where Allow is true.
type HostLog struct {
	Allow *bool `yaml:"allow,omitempty"`
	// Paths are patterns of files: path.Match per path element, and "**" as the last element for
	// everything below. Not set: /var/log/**.
	Paths []string `yaml:"paths,omitempty"`
	// Units are patterns of journal units. Not set: all.
	Units []string `yaml:"units,omitempty"`
}

// HostPortForward is about TCP connections that the device makes for the cloud side.
type HostPortForward struct {
	AllowLoopback *bool `yaml:"allowLoopback,omitempty"`
	// AllowedDestinations on the device's network: "10.1.0.0/16", "10.1.0.0/16:80", "plc.local:502",
	// "10.1.2.3:*" or "[fd00::/8]:443". Empty: none.
	AllowedDestinations []string `yaml:"allowedDestinations,omitempty"`
}
