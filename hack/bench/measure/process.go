package measure

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/procfs"
)

// Usage is what a process has used.
type Usage struct {
	// CPU time in user and system mode since the process began.
	CPU time.Duration
	// RSS is its resident memory in bytes.
	RSS int64
	// Files is how many files and connections it has open.
	Files int
}

// Process reads what a process has used so far.
func Process(pid int) (Usage, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return Usage{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return Usage{}, err
	}
	files, err := proc.FileDescriptorsLen()
	if err != nil {
		return Usage{}, err
	}
	return Usage{CPU: time.Duration(stat.CPUTime() * float64(time.Second)), RSS: int64(stat.ResidentMemory()), Files: files}, nil
}

// samplePeriod is how often processes are looked at.
const samplePeriod = 500 * time.Millisecond

// Watch follows a process until ctx ends or the process does: its memory in MiB and its CPU in cores.
func Watch(ctx context.Context, pid int, memory, cpu *Series) {
	ticker := time.NewTicker(samplePeriod)
	defer ticker.Stop()
	last, err := Process(pid)
	at := time.Now()
	for err == nil {
		memory.Add(float64(last.RSS) / (1 << 20))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var now Usage
		if now, err = Process(pid); err != nil {
			return
		}
		// On a busy machine one tick may come right after the last.
		if span := time.Since(at); span >= samplePeriod/2 {
			cpu.Add((now.CPU - last.CPU).Seconds() / span.Seconds())
			last, at = now, time.Now()
		}
	}
}

// NetworkBytes is what the network that a process is in has sent and received so far, in bytes of IP
// packets, loopback included.
func NetworkBytes(pid int) (int64, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := proc.Netstat()
	if err != nil {
		return 0, err
	}
	if stat.InOctets == nil || stat.OutOctets == nil {
		return 0, fmt.Errorf("the kernel does not count the bytes of the network of process %d", pid)
	}
	return int64(*stat.InOctets + *stat.OutOctets), nil
}
