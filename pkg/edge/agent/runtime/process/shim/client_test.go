package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStartGivenUp has a disk that takes too long for the record of a start: the process runs by then.
func TestStartGivenUp(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "."+fileStarted), 0o600); err != nil { // nobody reads it
		t.Fatal(err)
	}
	pids := filepath.Join(dir, "pids")
	spec := &Spec{ID: "slow", Cwd: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Args: []string{
		"/bin/sh", "-c", "sleep 1000 & (sleep 1000 & echo $$ $! >" + pids + ".new); echo $! >>" + pids + ".new; mv " + pids + ".new " + pids + "; wait",
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, _, err := Start(ctx, dir, spec)
		failed <- err
	}()
	var processes [3]Identity // the main process, its grandchild that has lost its parent, its child
	eventually(t, "the process runs", func() bool {
		data, err := os.ReadFile(pids)
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(data), &processes[0].PID, &processes[1].PID, &processes[2].PID)
		return err == nil
	})
	for i, p := range processes {
		var err error
		if processes[i], err = Identify(p.PID); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for _, p := range processes {
		if p.Alive() {
			t.Errorf("process %d runs on", p.PID)
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
	}
	if Alive(dir) {
		t.Error("the shim runs on")
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
