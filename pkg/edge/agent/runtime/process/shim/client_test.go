package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/test/framework/eventually"
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
	eventually.Holds(t, "the process runs", func() bool {
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

func TestAlive(t *testing.T) {
	for name, tt := range map[string]struct {
		lock int
		want bool
	}{"none": {unix.LOCK_UN, false}, "a shim": {unix.LOCK_EX, true}, "another look": {unix.LOCK_SH, false}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			lock, err := os.Create(filepath.Join(dir, fileLock))
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			if err := unix.Flock(int(lock.Fd()), tt.lock); err != nil {
				t.Fatal(err)
			}
			if got := Alive(dir); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

// TestNoDescriptorLeft has an agent that can open nothing: what it cannot see has not ended.
func TestNoDescriptorLeft(t *testing.T) {
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, fileLock))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	restore := noDescriptors(t)
	exit, waitErr := Wait(t.Context(), dir)
	shimAlive, selfAlive, killErr := Alive(dir), self.Alive(), self.Kill(0)
	restore()
	if !errors.Is(waitErr, unix.EMFILE) || errors.Is(waitErr, ErrGone) {
		t.Errorf("waiting for the end gave %v, %v", exit, waitErr)
	}
	if !shimAlive || !selfAlive {
		t.Errorf("the shim is alive: %t, the process: %t", shimAlive, selfAlive)
	}
	if !errors.Is(killErr, unix.EMFILE) {
		t.Errorf("a signal gave %v", killErr)
	}
	if _, err := Wait(t.Context(), dir); err != nil {
		t.Errorf("without a socket: %v", err)
	}
}

// noDescriptors keeps this process from opening anything until restore is called.
func noDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}
