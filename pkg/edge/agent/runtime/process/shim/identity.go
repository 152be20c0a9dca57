package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ProcStat is the part of /proc/<pid>/stat that matters here. Times are in clock ticks.
type ProcStat struct {
	PID, PPID             int
	State                 byte
	UTime, STime          uint64
	ChildUTime, ChildTime uint64
	StartTicks            uint64
	RSSPages              uint64
	MinorFaults           uint64
	MajorFaults           uint64
}

// ReadStat reads /proc/<pid>/stat.
func ReadStat(pid int) (ProcStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ProcStat{}, err
	}
	return parseStat(data)
}

// parseStat copes with any command name: the last ")" ends it.
func parseStat(data []byte) (s ProcStat, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return s, errors.New("not a process status line")
	}
	pid, _, _ := bytes.Cut(data, []byte(" "))
	if s.PID, err = strconv.Atoi(string(pid)); err != nil {
		return s, fmt.Errorf("not a process status line: %w", err)
	}
	// fields[0] is field 3 of proc(5), the state.
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 22 {
		return s, errors.New("a process status line is too short")
	}
	number := func(field int) uint64 {
		n, parseErr := strconv.ParseUint(fields[field-3], 10, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("field %d of a process status line: %w", field, parseErr)
		}
		return n
	}
	s.State = fields[0][0]
	s.PPID = int(number(4))
	s.MinorFaults, s.MajorFaults = number(10), number(12)
	s.UTime, s.STime, s.ChildUTime, s.ChildTime = number(14), number(15), number(16), number(17)
	s.StartTicks, s.RSSPages = number(22), number(24)
	return s, err
}

// BootID tells one boot of the machine from the next.
var BootID = sync.OnceValue(func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
})

// Identify returns the identity of a process.
func Identify(pid int) (Identity, error) {
	s, err := ReadStat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, StartTicks: s.StartTicks, BootID: BootID()}, nil
}

// Alive tells whether exactly this process still runs. A zombie does not. Where that cannot be seen, it is taken
// to run.
func (i Identity) Alive() bool {
	alive, err := i.look()
	return alive || err != nil
}

func (i Identity) look() (alive bool, err error) {
	if i.BootID != BootID() || i.PID <= 0 {
		return false, nil
	}
	s, err := ReadStat(i.PID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return err == nil && s.StartTicks == i.StartTicks && s.State != 'Z' && s.State != 'X', err
}

// Kill signals the process and its group, for use when the shim is gone and cannot do it. The
// process is held by a descriptor while its identity is checked, so that the signal cannot hit
// another process that got the same id. It reports os.ErrProcessDone if the process has ended.
func (i Identity) Kill(sig syscall.Signal) error {
	pidfd, err := unix.PidfdOpen(i.PID, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	alive, lookErr := i.look()
	switch {
	case lookErr != nil:
		return lookErr
	case !alive || errors.Is(err, unix.ESRCH):
		return os.ErrProcessDone
	case err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM):
		return err
	}
	// The process leads its group (the shim starts it in a session of its own), so the group's id
	// is not given to another process while the leader lives.
	groupErr := unix.Kill(-i.PID, sig)
	if err == nil {
		err = unix.PidfdSendSignal(pidfd, sig, nil, 0)
	} else {
		err = groupErr
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
