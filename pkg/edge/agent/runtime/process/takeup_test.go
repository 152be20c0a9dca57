package process

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestRestartDuringStart has an agent that ends while two shims cannot start their containers: one has a log that
// does not open until somebody reads it, the other is only a lock.
func TestRestartDuringStart(t *testing.T) {
	d := newDevice(t)
	fifo := filepath.Join(d.logs, "web", "main", "0.log")
	if err := os.MkdirAll(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	slow := d.create(shell("trap 'exit 5' TERM; while :; do sleep 0.01; done"))
	before, returned := d.Runtime, make(chan error, 1)
	go func() { returned <- before.StartContainer(context.Background(), slow) }()
	eventually.Holds(t, "the shim runs", func() bool { return shim.Alive(filepath.Join(d.containersDir(), slow)) })
	failing := d.create(shell("true"))
	lock, err := os.Create(filepath.Join(d.containersDir(), failing, "shim.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}

	d.restart()
	for _, id := range []string{slow, failing} {
		if got := d.status(id); got.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("a container that may run is %v", got)
		}
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if got := d.exited(failing); got.ExitCode != 128 || got.Reason != "StartError" {
		t.Errorf("got %v", got)
	}
	log, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	eventually.Holds(t, "the process is known", func() bool { return d.pid(slow) != 0 })
	if err := d.StopContainer(t.Context(), slow, 30); err != nil {
		t.Fatal(err)
	}
	if got := d.status(slow); got.ExitCode != 5 && got.ExitCode != 143 { // before its trap
		t.Errorf("got %v", got)
	}
	if err := <-returned; err != nil {
		t.Error(err)
	}
	if err := before.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDamagedRecord has containers that run and cannot be taken up.
func TestDamagedRecord(t *testing.T) {
	for _, file := range []string{"container.json", "started.json"} {
		t.Run(file, func(t *testing.T) {
			d := newDevice(t)
			id := d.run(shell("sleep 1000"))
			process, err := shim.Identify(d.pid(id))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(d.containersDir(), id, file), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			d.restart()
			if _, err := d.ContainerStatus(t.Context(), id, false); status.Code(err) != codes.NotFound {
				t.Errorf("got %v", err)
			}
			eventually.Holds(t, "the process ends", func() bool { return !process.Alive() })
		})
	}
}
