package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process identifies a process beyond the reuse of its id.
type Process struct {
	PID int `json:"pid"`
	// StartTime is the time the process started, in clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// FindProcess returns the process that now has the id.
func FindProcess(pid int) (Process, error) {
	st, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, StartTime: st.start}, nil
}

// Alive says whether that very process still runs. A zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	st, err := readStat(p.PID)
	return err == nil && st.start == p.StartTime && st.state != 'Z' && st.state != 'X'
}

// Signal sends a signal if that very process still runs.
func (p Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return syscall.ESRCH
	}
	return syscall.Kill(p.PID, sig)
}

// WaitGone waits until the process has ended, and returns false if it has not within the timeout.
func (p Process) WaitGone(timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); p.Alive(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Descendants lists the processes below pid, parents before children.
func Descendants(pid int) []Process {
	children := map[int][]Process{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		id, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			continue
		}
		if st, err := readStat(id); err == nil && st.state != 'Z' {
			children[st.ppid] = append(children[st.ppid], Process{PID: id, StartTime: st.start})
		}
	}
	var all []Process
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			all = append(all, p)
			queue = append(queue, p.PID)
		}
	}
	return all
}

// HostPID translates an id seen in the pid namespace of a process into the caller's. The process
// with that id must be a descendant of root or root itself.
func HostPID(root, pid int) (int, error) {
	for _, p := range append([]Process{{PID: root}}, Descendants(root)...) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			ids, ok := strings.CutPrefix(line, "NSpid:")
			if !ok {
				continue
			}
			fields := strings.Fields(ids)
			depth := nsDepth(root)
			if depth <= len(fields) && fields[depth-1] == strconv.Itoa(pid) {
				return p.PID, nil
			}
		}
	}
	return 0, fmt.Errorf("no process below %d has the id %d in its pid namespace", root, pid)
}

// nsDepth is the number of pid namespaces, from the caller's down, that the process is visible in.
func nsDepth(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err == nil {
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				return max(1, len(strings.Fields(ids)))
			}
		}
	}
	return 1
}

// killDescendants ends all descendants of this process: SIGTERM at first, SIGKILL after the grace.
func killDescendants(grace time.Duration) {
	self := os.Getpid()
	deadline := time.Now().Add(grace)
	sent := map[Process]bool{}
	for {
		left := Descendants(self)
		if len(left) == 0 {
			return
		}
		expired := time.Now().After(deadline)
		for _, p := range left {
			switch {
			case expired:
				_ = p.Signal(syscall.SIGKILL)
			case !sent[p]:
				_ = p.Signal(syscall.SIGTERM)
				sent[p] = true
			}
		}
		if time.Now().After(deadline.Add(30 * time.Second)) {
			return // in uninterruptible sleep; nothing more can be done from here
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type stat struct {
	state byte
	ppid  int
	start uint64
}

// readStat reads /proc/<pid>/stat. The second field is in parentheses and may hold anything.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return stat{state: fields[0][0], ppid: ppid, start: start}, err
}
