package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// State is what a cluster's directory remembers of it, in state.json.
type State struct {
	// ID is derived from the directory and part of every name that is global on the machine.
	ID      string `json:"id"`
	Bin     string `json:"bin"`
	Source  string `json:"source"`
	Runtime string `json:"runtime"`
	Link    string `json:"link"`
	Etcd    string `json:"etcd"`
	Ports   Ports  `json:"ports"`
	// ExtraArgs are those of Options.
	ExtraArgs map[string][]string `json:"extraArgs,omitempty"`
	// Network is the address range of the devices, if they have network namespaces of their own.
	Network *Network `json:"network,omitempty"`
	// Supervisors that were started: "cloud" and, if isolated, one named after each device.
	Supervisors map[string]supervisor.Process `json:"supervisors"`
	Devices     []Device                      `json:"devices,omitempty"`
	// Guests are names of devices, not the cluster's own, that its broker knows.
	Guests []string `json:"guests,omitempty"`
	// NamespaceTaint is spec.node.namespaceTaint of the EdgeDevices, if it is not the API's default.
	NamespaceTaint string `json:"namespaceTaint,omitempty"`
	// MadeCNIDir says that /var/lib/cni was not there before.
	MadeCNIDir bool `json:"madeCNIDir,omitempty"`
}

// Ports of the programs of the cloud side.
type Ports struct {
	Etcd              int `json:"etcd"`
	EtcdPeer          int `json:"etcdPeer"`
	APIServer         int `json:"apiServer"`
	ControllerManager int `json:"controllerManager"`
	Scheduler         int `json:"scheduler"`
	Aranya            int `json:"aranya"`
	Gateway           int `json:"gateway"`
	Kubelet           int `json:"kubelet"`
	// Broker is the port of the MQTT broker, if there is one.
	Broker int `json:"broker"`
}

// Network is the address range of a cluster's devices.
type Network struct {
	CIDR netip.Prefix `json:"cidr"`
	// Gateway is the address on this machine at which devices find aranya's gateway.
	Gateway netip.Addr `json:"gateway"`
	// Firewall says whether packet filters restrict the devices further.
	Firewall bool `json:"firewall"`
}

// Device is one device.
type Device struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
	// Address, HostInterface and NetworkNamespace exist only for a device with a network of its own.
	Address          netip.Addr `json:"address,omitzero"`
	HostInterface    string     `json:"hostInterface,omitempty"`
	NetworkNamespace string     `json:"networkNamespace,omitempty"`
	// Link is how the device reaches aranya, if not as the cluster's others.
	Link string `json:"link,omitempty"`
	// Unplugged says that its link was cut on purpose. It stays so through a reboot.
	Unplugged bool `json:"unplugged,omitempty"`
}

const (
	stateFile      = "state.json"
	lockFile       = ".lock"
	groupFile      = "run"
	kubeconfigFile = "kubeconfig"
)

// Cloud is the group of the programs of the cloud side, see PID.
const Cloud = "cloud"

// errNoCluster says that there is nothing in a directory.
var errNoCluster = errors.New("there is no cluster")

func clusterID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:3])
}

func loadState(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", errNoCluster, dir)
	} else if err != nil {
		return nil, err
	}
	s := &State{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	if s.ID == "" {
		return nil, fmt.Errorf("%s is not of a cluster; choose another directory", filepath.Join(dir, stateFile))
	}
	return s, nil
}

func (s *State) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, stateFile+".tmp")
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

func (s *State) device(name string) *Device {
	if i := slices.IndexFunc(s.Devices, func(d Device) bool { return d.Name == name }); i >= 0 {
		return &s.Devices[i]
	}
	return nil
}

// lock keeps other processes from changing the same cluster at the same time.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another process is bringing the cluster in %s up or down", dir)
	}
	return func() { _ = f.Close() }, nil
}
