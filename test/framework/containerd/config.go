package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

const configTemplate = `version = 2
root = %[1]q
state = %[2]q

[grpc]
  address = %[3]q

[plugins."io.containerd.internal.v1.opt"]
  path = %[4]q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[5]q
  # Machines in containers forbid negative oom scores.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %[9]q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[6]q
    conf_dir = %[7]q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = %[8]q
`

// RegistryDir is where a containerd that runs in dir looks for hosts.toml files: a directory per registry,
// read at each pull.
func RegistryDir(dir string) string { return filepath.Join(dir, "certs.d") }

func (s *Server) writeConfig() error {
	dir := s.opts.Dir
	cniDir := filepath.Join(dir, "cni")
	if err := os.MkdirAll(cniDir, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf(configTemplate, filepath.Join(dir, "root"), filepath.Join(dir, "state"), s.socket(),
		filepath.Join(dir, "opt"), sandboxImage, pluginDir, cniDir, filepath.Join(dir, "runc"), RegistryDir(dir))
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o644); err != nil {
		return err
	}
	// An interface name has at most 15 bytes.
	sum := sha256.Sum256([]byte(dir))
	bridge := "cni" + hex.EncodeToString(sum[:5])
	if err := os.WriteFile(filepath.Join(dir, bridgeFile), []byte(bridge), 0o644); err != nil {
		return err
	}
	conflist, err := json.MarshalIndent(map[string]any{
		"cniVersion": "0.4.0",
		"name":       "pods",
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": filepath.Join(dir, "ipam"),
				"ranges":  []any{[]any{map[string]any{"subnet": s.opts.Subnet}}},
				"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cniDir, "10-pods.conflist"), conflist, 0o644)
}
