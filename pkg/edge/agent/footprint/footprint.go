// Package footprint gives memory back to a small device. It is linked into shims and must stay small.
package footprint

import (
	"bufio"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Trim gives back what this process does not need at the moment: free heap, and the pages of the
// executable that only its start needed. The latter are clean and read-only: the kernel reads them
// again, from its cache or the disk, if they are needed after all.
func Trim() error {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	executable, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		start, end, ok := readOnly(lines.Text(), executable)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return lines.Err()
}

// readOnly parses a line of /proc/self/maps and tells whether it is a read-only mapping of a file. Of
// writable ones the pages in memory are the only copy.
func readOnly(line, file string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || !strings.HasPrefix(fields[1], "r") || strings.Contains(fields[1], "w") || !strings.HasSuffix(line, " "+file) {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	a, errA := strconv.ParseUint(from, 16, strconv.IntSize)
	b, errB := strconv.ParseUint(to, 16, strconv.IntSize)
	if errA != nil || errB != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b), true
}

// Run trims once things have settled after the start, and then from time to time, until ctx ends.
func Run(ctx context.Context, first, period time.Duration) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			// A kernel that does not let go of the pages is no reason to complain.
			_ = Trim()
			timer.Reset(period)
		}
	}
}
