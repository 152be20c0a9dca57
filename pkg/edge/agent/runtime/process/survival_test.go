package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestRestart(t *testing.T) {
	d := newDevice(t)
	config := shell("echo secret is $SECRET; trap 'exit 5' TERM; while :; do sleep 0.01; done")
	config.Envs = []*runtimeapi.KeyValue{{Key: "SECRET", Value: []byte("s3cr3t")}}
	config.Args = append(config.Args, "s3cr3t") // $(SECRET) in the pod
	running := d.run(config)
	ended := d.run(shell("exit 3"))
	d.exited(ended)
	d.waitLog("secret is s3cr3t")
	created := d.create(shell("true"))
	before := d.pid(running)

	d.restart()
	if got := d.status(running); got.State != runtimeapi.ContainerState_CONTAINER_RUNNING || d.pid(running) != before {
		t.Errorf("the running container is now %v, pid %d, was %d", got.State, d.pid(running), before)
	}
	if got := d.status(ended); got.ExitCode != 3 || got.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the ended container is now %v", got)
	}
	if _, err := d.ContainerStatus(t.Context(), created, false); status.Code(err) != codes.NotFound {
		t.Errorf("a container that was never started gave %v", err)
	}
	stdout, _, err := d.ExecSync(t.Context(), running, []string{"sh", "-c", "echo $SECRET"}, 0)
	if err != nil || string(stdout) != "s3cr3t\n" {
		t.Errorf("exec after the restart gave %q, %v", stdout, err)
	}
	err = filepath.Walk(d.options.StateDir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("s3cr3t")) && !strings.Contains(path, ".log") {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if c, err := d.loadContainer(running, time.Now()); err != nil || strings.Contains(c.config.String(), "s3cr3t") {
		t.Errorf("the record holds the secret: %v, %v", c.config, err)
	}
	if err := d.StopContainer(t.Context(), running, 30); err != nil {
		t.Fatal(err)
	}
	if got := d.status(running); got.ExitCode != 5 {
		t.Errorf("got exit code %d", got.ExitCode)
	}
	if got, err := d.PodSandboxStatus(t.Context(), d.sandbox, false); err != nil || got.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the sandbox is %v, %v", got, err)
	}
}

// TestEndWhileAway lets a container end while no agent runs.
func TestEndWhileAway(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done"))
	d.waitLog("ready")
	pid, dir := d.pid(id), filepath.Join(d.containersDir(), id)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the shim ends", func() bool { return !shim.Alive(dir) })
	d.open()
	if got := d.exited(id); got.ExitCode != 6 {
		t.Errorf("got %v", got)
	}
}

// TestEndWithoutRecord has a disk on which the end of a container cannot be recorded, as when it is full.
func TestEndWithoutRecord(t *testing.T) {
	for code, reason := range map[int32]string{0: "Completed", 3: "Error"} {
		d := newDevice(t)
		id := d.create(shell(fmt.Sprintf("exit %d", code)))
		if err := os.Mkdir(filepath.Join(d.containersDir(), id, "exit.json"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := d.exited(id); got.ExitCode != code || got.Reason != reason || got.FinishedAt == 0 {
			t.Errorf("exit %d: got %v", code, got)
		}
	}
}

// TestEndWithoutRecordWhileAway has such a disk while no agent runs.
func TestEndWithoutRecordWhileAway(t *testing.T) {
	for name, after := range map[string]func(d *device, id, obstacle string){
		"an agent asks": func(d *device, id, _ string) {
			d.open()
			if got := d.exited(id); got.ExitCode != 6 || got.Reason != "Error" {
				d.t.Errorf("got %v", got)
			}
		},
		"there is room again": func(d *device, id, obstacle string) {
			if err := os.Remove(obstacle); err != nil {
				d.t.Fatal(err)
			}
			eventually.Holds(d.t, "the end is recorded", func() bool {
				exit, err := shim.ReadExit(filepath.Join(d.containersDir(), id))
				return err == nil && exit.Code == 6
			})
			d.open()
		},
		"the container is removed": func(d *device, id, _ string) {
			if err := os.RemoveAll(filepath.Join(d.containersDir(), id)); err != nil {
				d.t.Fatal(err)
			}
			d.open()
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			gate := filepath.Join(t.TempDir(), "gate")
			id := d.run(shell("while [ ! -e " + gate + " ]; do sleep 0.01; done; exit 6"))
			main, err := shim.ReadStat(d.pid(id))
			if err != nil {
				t.Fatal(err)
			}
			parent, err := shim.Identify(main.PPID)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(d.containersDir(), id)
			obstacle := filepath.Join(dir, ".exit.json") // where the record is written before it is renamed
			if err := errors.Join(os.Mkdir(obstacle, 0o700), os.WriteFile(gate, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "the end cannot be recorded", func() bool {
				said, err := os.ReadFile(filepath.Join(dir, "shim.log"))
				return err == nil && strings.Contains(string(said), "cannot write exit.json")
			})
			after(d, id, obstacle)
			eventually.Holds(t, "the shim ends", func() bool { return !parent.Alive() })
		})
	}
}

// TestSandboxEndWithoutRecord has a disk on which the end of a pod cannot be recorded.
func TestSandboxEndWithoutRecord(t *testing.T) {
	for name, stop := range map[string]bool{"stopped before": true, "removed at once": false} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			id := d.run(shell("sleep 1000"))
			record := d.sandboxPath(d.sandbox)
			if err := errors.Join(os.Remove(record), os.Mkdir(record, 0o700)); err != nil {
				t.Fatal(err)
			}
			if stop {
				if err := d.StopPodSandbox(t.Context(), d.sandbox); err != nil {
					t.Error(err)
				}
				if got, err := d.PodSandboxStatus(t.Context(), d.sandbox, false); err != nil || got.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
					t.Errorf("the sandbox is %v, %v", got, err)
				}
				d.exited(id)
			}
			if err := d.RemovePodSandbox(t.Context(), d.sandbox); err != nil {
				t.Error(err)
			}
			if list, err := d.ListPodSandbox(t.Context(), nil); err != nil || len(list) > 0 {
				t.Errorf("there is still %v, %v", list, err)
			}
		})
	}
}

// TestShimKilled kills a shim: the process goes on, and can be stopped still.
func TestShimKilled(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	pid := d.pid(id)
	stat, err := shim.ReadStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(stat.PPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the shim is gone", func() bool { return !shim.Alive(filepath.Join(d.containersDir(), id)) })
	d.restart()
	if got := d.status(id); got.State != runtimeapi.ContainerState_CONTAINER_RUNNING || d.pid(id) != pid {
		t.Fatalf("got %v", got)
	}
	if err := d.ExecStream(t.Context(), id, []string{"true"}, runtime.IO{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("exec gave %v", err)
	}
	if err := d.StopContainer(t.Context(), id, 10); err != nil {
		t.Fatal(err)
	}
	if got := d.status(id); got.ExitCode != 255 || got.Reason != "Unknown" {
		t.Errorf("got %v", got)
	}
}

// TestShimSilent has a shim that takes connections and answers none.
func TestShimSilent(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	c, err := d.container(id)
	if err != nil {
		t.Fatal(err)
	}
	_, started, _ := c.state()
	stat, err := shim.ReadStat(started.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(stat.PPID, syscall.SIGCONT) }()
	err = syscall.Kill(stat.PPID, syscall.SIGSTOP)
	if err == nil {
		_, err = syscall.Wait4(stat.PPID, nil, syscall.WUNTRACED, nil) // until all of its threads stand still
	}
	if err != nil {
		t.Fatal(err)
	}
	d.answerPatience = 10 * time.Millisecond
	if err := d.ReopenContainerLog(t.Context(), id); err == nil {
		t.Error("its log was reopened")
	}
	if err := d.signal(t.Context(), c, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the process ends", func() bool { return !started.Alive() })
	if err := syscall.Kill(stat.PPID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := d.exited(id); got.ExitCode != 137 {
		t.Errorf("got %v", got)
	}
}

// TestShimOutOfReach has shims that run and cannot be asked how their containers ended.
func TestShimOutOfReach(t *testing.T) {
	for name, hide := range map[string]func(socket string) error{
		"for a while": func(socket string) error { return os.Symlink(socket, socket) }, // fails to be resolved
		"any more":    func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			gate := filepath.Join(t.TempDir(), "gate")
			id := d.run(shell("while [ ! -e " + gate + " ]; do sleep 0.01; done; exit 6"))
			if err := d.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(d.containersDir(), id, "shim.sock")
			if err := errors.Join(os.Rename(socket, socket+".hidden"), hide(socket)); err != nil {
				t.Fatal(err)
			}
			d.open()
			c, err := d.container(id)
			if err != nil {
				t.Fatal(err)
			}
			_, err = shim.Wait(t.Context(), c.dir)
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				d.watchOrphan(c)
			}()
			if gone := err == nil; gone != (name == "any more") {
				t.Errorf("waiting gave %v", err)
			}
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			<-watched
			if got := d.exited(id); got.ExitCode != 6 {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestIdentityIsNotReused(t *testing.T) {
	self, err := shim.Identify(os.Getpid())
	if err != nil || !self.Alive() {
		t.Fatalf("%v, %v", self, err)
	}
	for name, other := range map[string]shim.Identity{
		"start": {PID: self.PID, StartTicks: self.StartTicks + 1, BootID: self.BootID},
		"boot":  {PID: self.PID, StartTicks: self.StartTicks, BootID: "another"},
	} {
		if other.Alive() {
			t.Errorf("%s: is alive", name)
		}
		if err := other.Kill(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: kill gave %v", name, err)
		}
	}
}
