package shim

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// init takes over the process if it was started as a shim.
func init() {
	if len(os.Args) < 2 || os.Args[1] != Command {
		return
	}
	// A shim mostly waits: keep its heap small rather than its collector idle.
	debug.SetGCPercent(20)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	if err := runShim(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
