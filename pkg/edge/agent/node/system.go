package node

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// KubernetesVersion is the release whose node behaviour the agent has. It is the version of the
// Kubernetes libraries in go.mod.
const KubernetesVersion = "v1.37.2"

// kubeletVersion is what the Node shows: the Kubernetes release, so that version skew can be judged,
// and the agent's own version.
func kubeletVersion(agent string) string {
	return KubernetesVersion + "-arhat." + strings.TrimPrefix(agent, "v")
}

// facts are what a Collector learns of the machine.
type facts interface {
	measure(stateDir string) measured
	info(version string) v1.NodeSystemInfo
	hostIPs(configured string) []string
}

// system reads the facts of a machine from the files below root, and from functions that a test can
// replace.
type system struct {
	root string // "/"
	ips  func(configured string) []string
}

var hostSystem = system{root: "/", ips: HostIPs}

func (s system) hostIPs(configured string) []string { return s.ips(configured) }

// Snapshot holds the facts of this machine at one moment. A program that runs many agents has them
// measured once.
type Snapshot struct {
	of        measured
	system    v1.NodeSystemInfo
	addresses []string
}

// TakeSnapshot measures this machine, with the file system of dir for its disk.
func TakeSnapshot(dir, version string) *Snapshot {
	return &Snapshot{of: hostSystem.measure(dir), system: hostSystem.info(version), addresses: HostIPs("")}
}

func (s *Snapshot) measure(string) measured       { return s.of }
func (s *Snapshot) info(string) v1.NodeSystemInfo { return s.system }
func (s *Snapshot) hostIPs(string) []string       { return s.addresses }

// measured is one look at the machine. A number that could not be learned is 0.
type measured struct {
	hostname               string
	cpus                   int
	memoryTotal, diskTotal uint64
	hugePages              map[int64]int64 // size in bytes -> number
}

func (s system) path(name string) string { return filepath.Join(s.root, name) }

func (s system) text(name string) string {
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (s system) number(name string) uint64 {
	n, err := strconv.ParseUint(s.text(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s system) measure(stateDir string) measured {
	m := measured{cpus: goruntime.NumCPU(), hugePages: s.hugePages()}
	m.hostname = strings.ToLower(s.text("proc/sys/kernel/hostname"))
	m.memoryTotal = parseMeminfo([]byte(s.text("proc/meminfo")))
	var st unix.Statfs_t
	if err := unix.Statfs(stateDir, &st); err == nil {
		m.diskTotal = st.Blocks * uint64(st.Bsize)
	}
	return m
}

// parseMeminfo returns the bytes of memory there are.
func parseMeminfo(data []byte) uint64 {
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || name != "MemTotal" || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 54); err == nil {
			return n << 10
		}
	}
	return 0
}

func (s system) hugePages() map[int64]int64 {
	entries, err := os.ReadDir(s.path("sys/kernel/mm/hugepages"))
	if err != nil {
		return nil
	}
	pages := map[int64]int64{}
	for _, e := range entries {
		text := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB")
		if size, err := strconv.ParseInt(text, 10, 40); err == nil {
			pages[size<<10] = int64(s.number(filepath.Join("sys/kernel/mm/hugepages", e.Name(), "nr_hugepages")))
		}
	}
	return pages
}

func isHugePages(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

func capacity(m measured, pods int32) v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(m.cpus), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(int64(m.memoryTotal), resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(m.diskTotal), resource.BinarySI),
	}
	if pods > 0 {
		list[v1.ResourcePods] = *resource.NewQuantity(int64(pods), resource.DecimalSI)
	}
	for size, n := range m.hugePages {
		name := v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
		list[name] = *resource.NewQuantity(size*n, resource.BinarySI)
	}
	return list
}

// info are the facts that do not change while the agent runs, except for the runtime's version.
func (s system) info(version string) v1.NodeSystemInfo {
	info := v1.NodeSystemInfo{
		MachineID:       s.text("etc/machine-id"),
		SystemUUID:      s.text("sys/class/dmi/id/product_uuid"),
		BootID:          s.text("proc/sys/kernel/random/boot_id"),
		KernelVersion:   s.text("proc/sys/kernel/osrelease"),
		OSImage:         parseOSRelease(s.text("etc/os-release")),
		OperatingSystem: goruntime.GOOS,
		Architecture:    goruntime.GOARCH,
		KubeletVersion:  kubeletVersion(version),
	}
	if info.MachineID == "" {
		info.MachineID = s.text("var/lib/dbus/machine-id")
	}
	if info.SystemUUID == "" {
		info.SystemUUID = strings.Trim(s.text("proc/device-tree/serial-number"), "\x00")
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	if info.OSImage == "" {
		info.OSImage = parseOSRelease(s.text("usr/lib/os-release"))
	}
	return info
}

func parseOSRelease(text string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			if unquoted, err := strconv.Unquote(value); err == nil {
				return unquoted
			}
			return strings.Trim(value, `'"`)
		}
	}
	return ""
}
