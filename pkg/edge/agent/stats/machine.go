package stats

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// nanosPerTick converts the kernel's clock ticks: 100 a second on every Linux that Go runs on.
const nanosPerTick = uint64(time.Second) / 100

// machine is one reading of the kernel's files.
type machine struct {
	cpuNanos                           uint64 // time that the CPUs were not idle
	bootTime                           time.Time
	memoryTotal, memoryAvailable       uint64
	memoryUsage, memoryRSS             uint64
	memoryWorkingSet                   uint64
	swapTotal, swapFree                uint64
	pageFaults, majorFaults            uint64
	interfaces                         []statsapi.InterfaceStats
	defaultInterface                   string
	processes, processesMax, threadMax uint64
}

// Snapshot holds the figures of this machine at one moment. A program that runs many agents has them
// read once.
type Snapshot struct{ machine machine }

// TakeSnapshot reads the figures of this machine.
func TakeSnapshot() *Snapshot { return &Snapshot{machine: readMachine("/")} }

func (c *Collector) read() machine {
	if c.config.Machine != nil {
		return c.config.Machine.machine
	}
	return readMachine(c.config.root)
}

func readMachine(root string) machine {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return ""
		}
		return string(data)
	}
	m := machine{}
	m.parseStat(read("proc/stat"))
	m.parseMeminfo(read("proc/meminfo"))
	m.parseVMStat(read("proc/vmstat"))
	m.interfaces = parseNetDev(read("proc/net/dev"))
	m.defaultInterface = parseRoute(read("proc/net/route"))
	if fields := strings.Fields(read("proc/loadavg")); len(fields) > 3 {
		_, total, _ := strings.Cut(fields[3], "/")
		m.processes = number(total)
	}
	m.processesMax = number(strings.TrimSpace(read("proc/sys/kernel/pid_max")))
	m.threadMax = number(strings.TrimSpace(read("proc/sys/kernel/threads-max")))
	return m
}

// number is 0 for what is not one.
func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (m *machine) parseStat(text string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "btime" {
			m.bootTime = time.Unix(int64(number(fields[1])&(1<<40-1)), 0)
		}
		if len(fields) < 9 || fields[0] != "cpu" {
			continue
		}
		// user nice system idle iowait irq softirq steal; guest time is part of user time.
		for i, field := range fields[1:9] {
			if i != 3 && i != 4 {
				m.cpuNanos += number(field) * nanosPerTick
			}
		}
	}
}

// table parses lines of a name and a number.
func table(text string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			values[strings.TrimSuffix(fields[0], ":")] = number(fields[1])
		}
	}
	return values
}

func (m *machine) parseMeminfo(text string) {
	kib := table(text)
	available, ok := kib["MemAvailable"]
	if !ok {
		available = kib["MemFree"] + kib["Buffers"] + kib["Cached"]
	}
	m.memoryTotal, m.memoryAvailable = kib["MemTotal"]<<10, available<<10
	m.memoryUsage = (kib["MemTotal"] - min(kib["MemFree"], kib["MemTotal"])) << 10
	m.memoryWorkingSet = m.memoryTotal - min(m.memoryAvailable, m.memoryTotal)
	m.memoryRSS = kib["AnonPages"] << 10
	m.swapTotal, m.swapFree = kib["SwapTotal"]<<10, kib["SwapFree"]<<10
}

func (m *machine) parseVMStat(text string) {
	values := table(text)
	m.pageFaults, m.majorFaults = values["pgfault"], values["pgmajfault"]
}

// parseNetDev leaves out the loopback interface.
func parseNetDev(text string) (list []statsapi.InterfaceStats) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		name = strings.TrimSpace(name)
		if !ok || len(fields) < 11 || name == "lo" {
			continue
		}
		value := func(i int) *uint64 {
			n := number(fields[i])
			return &n
		}
		list = append(list, statsapi.InterfaceStats{Name: name, RxBytes: value(0), RxErrors: value(2), TxBytes: value(8), TxErrors: value(10)})
	}
	return list
}

// parseRoute returns the interface of the default route.
func parseRoute(text string) string {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 8 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

func (m *machine) nodeStats(name string, now time.Time, rate *uint64) statsapi.NodeStats {
	at := metav1.NewTime(now)
	stats := statsapi.NodeStats{
		NodeName: name, StartTime: metav1.NewTime(m.bootTime),
		CPU: &statsapi.CPUStats{Time: at, UsageCoreNanoSeconds: &m.cpuNanos, UsageNanoCores: rate},
		Memory: &statsapi.MemoryStats{
			Time: at, AvailableBytes: &m.memoryAvailable, UsageBytes: &m.memoryUsage, WorkingSetBytes: &m.memoryWorkingSet,
			RSSBytes: &m.memoryRSS, PageFaults: &m.pageFaults, MajorPageFaults: &m.majorFaults,
		},
		Rlimit: &statsapi.RlimitStats{Time: at},
	}
	limit, processes := int64(min(m.processesMax, m.threadMax)), int64(m.processes)
	stats.Rlimit.MaxPID, stats.Rlimit.NumOfRunningProcesses = &limit, &processes
	if m.swapTotal > 0 {
		used := m.swapTotal - min(m.swapFree, m.swapTotal)
		stats.Swap = &statsapi.SwapStats{Time: at, SwapAvailableBytes: &m.swapFree, SwapUsageBytes: &used}
	}
	if len(m.interfaces) > 0 {
		stats.Network = &statsapi.NetworkStats{Time: at, Interfaces: m.interfaces}
		for _, i := range m.interfaces {
			if i.Name == m.defaultInterface {
				stats.Network.InterfaceStats = i
			}
		}
	}
	return stats
}
