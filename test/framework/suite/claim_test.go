package suite

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/cluster/supervisor"
)

// supervised makes a directory that of a cluster which has a process for its supervisor.
func supervised(t *testing.T, dir string) (ended <-chan struct{}, kill func()) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	kill = func() {
		_ = cmd.Process.Kill()
		<-done
	}
	t.Cleanup(kill)
	p, err := supervisor.FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	state, err := json.Marshal(local.State{ID: "test-" + filepath.Base(dir), Supervisors: map[string]supervisor.Process{local.Cloud: p}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"state.json", "a.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), state, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return done, kill
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// A cluster whose process was killed is taken down, one that is in use is not.
func TestTakeDownLeftovers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	used, err := newClaim()
	if err != nil {
		t.Fatal(err)
	}
	left, err := newClaim()
	if err != nil {
		t.Fatal(err)
	}
	runs, kill := supervised(t, used.dir)
	ended, _ := supervised(t, left.dir)
	if err := left.lock.Close(); err != nil { // as with the end of its process
		t.Fatal(err)
	}
	for range 2 { // again is no error
		if err := takeDownLeftovers(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	<-ended
	if exists(t, filepath.Join(left.dir, claimFile)) || !exists(t, filepath.Join(left.dir, "a.log")) {
		t.Error("it is not only its logs that have stayed")
	}
	select {
	case <-runs:
		t.Error("a cluster in use was taken down")
	default:
	}
	kill()
	if err := used.takeDown(t.Context(), true, io.Discard); err != nil || exists(t, filepath.Join(used.dir, claimFile)) {
		t.Errorf("in the end: %v", err)
	}
}
