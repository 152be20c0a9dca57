package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"arhat.dev/aranya/test/framework/eventually"
)

// The tests run the supervisor as a process of its own, which is this test binary.
func TestMain(m *testing.M) {
	if socket := os.Getenv("SUPERVISOR_TEST_SOCKET"); socket != "" {
		if name := os.Getenv("SUPERVISOR_TEST_HOSTNAME"); name != "" {
			if err := (&Isolation{Hostname: name}).Enter(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if err := Run(context.Background(), socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type group struct {
	*Client
	dir     string
	process Process
}

func launch(t *testing.T, hostname string) *group {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "supervisor.sock")
	env := append(os.Environ(), "SUPERVISOR_TEST_SOCKET="+socket, "SUPERVISOR_TEST_HOSTNAME="+hostname)
	p, err := Launch(t.Context(), []string{os.Args[0]}, env, socket, filepath.Join(dir, "log"), hostname != "")
	if err != nil {
		t.Fatal(err)
	}
	g := &group{Client: NewClient(socket), dir: dir, process: p}
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		p.WaitGone(10 * time.Second)
	})
	return g
}

func (g *group) service(name, script string) Service {
	return Service{Name: name, Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "DIR=" + g.dir},
		Log: filepath.Join(g.dir, name+".log")}
}

func TestServiceIsRestartedWhenItDies(t *testing.T) {
	g := launch(t, "")
	if err := g.Start(t.Context(), g.service("s", "echo started; exec sleep 1000")); err != nil {
		t.Fatal(err)
	}
	var first Status
	eventually.Succeeds(t, func() (err error) {
		first, err = g.Status(t.Context(), "s")
		if err == nil && first.PID == 0 {
			err = fmt.Errorf("not started: %+v", first)
		}
		return err
	})
	said := func(want string) func() error { // the program begins to run after its process
		return func() error {
			log, err := os.ReadFile(filepath.Join(g.dir, "s.log"))
			if err == nil && string(log) != want {
				err = fmt.Errorf("log: %q, want %q", log, want)
			}
			return err
		}
	}
	eventually.Succeeds(t, said("started\n"))
	if err := g.Signal(t.Context(), "s", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.Succeeds(t, func() error {
		s, err := g.Status(t.Context(), "s")
		if err == nil && (s.PID == 0 || s.PID == first.PID || s.Restarts != 1 || !strings.Contains(s.LastExit, "killed")) {
			err = fmt.Errorf("not restarted: %+v", s)
		}
		return err
	})
	eventually.Succeeds(t, said("started\nstarted\n"))
}

func TestStopAndResume(t *testing.T) {
	g := launch(t, "")
	svc := g.service("s", `trap 'echo bye; exit 0' TERM; touch $DIR/ready; while :; do sleep 0.05; done`)
	if err := g.Start(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	running := func() error {
		s, err := g.Status(t.Context(), "s")
		if err == nil && s.PID == 0 {
			err = fmt.Errorf("not running: %+v", s)
		}
		return err
	}
	eventually.Succeeds(t, func() error { _, err := os.Stat(filepath.Join(g.dir, "ready")); return err })
	if err := g.Stop(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	s, err := g.Status(t.Context(), "s")
	if err != nil || s.PID != 0 || !s.Stopped || s.LastExit != "exit code 0" {
		t.Fatalf("after Stop: %+v, %v", s, err)
	}
	if err := g.Resume(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	eventually.Succeeds(t, running)
}

func TestStubbornServiceIsKilled(t *testing.T) {
	g := launch(t, "")
	svc := g.service("s", `trap '' TERM; touch $DIR/ready; while :; do sleep 0.05; done`)
	svc.StopTimeout = 200 * time.Millisecond
	if err := g.Start(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	eventually.Succeeds(t, func() error { _, err := os.Stat(filepath.Join(g.dir, "ready")); return err })
	if err := g.Stop(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Status(t.Context(), "s"); err != nil || s.PID != 0 || !strings.HasPrefix(s.LastExit, "killed: it did not end") {
		t.Fatalf("%+v, %v", s, err)
	}
}

func TestShutdownLeavesNoDescendant(t *testing.T) {
	g := launch(t, "")
	// The grandchild leaves the session and its parent, as a container's process does.
	script := `setsid sh -c 'echo $$ > $DIR/orphan; exec sleep 1000' & exec sleep 1000`
	if err := g.Start(t.Context(), g.service("s", script)); err != nil {
		t.Fatal(err)
	}
	var orphan Process
	eventually.Succeeds(t, func() error {
		data, err := os.ReadFile(filepath.Join(g.dir, "orphan"))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return err
		}
		orphan, err = FindProcess(pid)
		return err
	})
	if err := g.Signal(t.Context(), "s", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !g.process.WaitGone(15 * time.Second) {
		t.Fatal("the supervisor does not end")
	}
	if orphan.Alive() {
		t.Error("an orphan is left")
	}
}

func TestServiceErrors(t *testing.T) {
	g := launch(t, "")
	for name, svc := range map[string]Service{
		"no name": {Argv: []string{"/bin/true"}, Log: "log"},
		"no argv": {Name: "s", Log: "log"},
		"no log":  {Name: "s", Argv: []string{"/bin/true"}},
	} {
		if err := g.Start(t.Context(), svc); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := g.Stop(t.Context(), "unknown"); err == nil {
		t.Error("stop of an unknown service: no error")
	}
	if err := g.Start(t.Context(), Service{Name: "s", Argv: []string{"/does/not/exist"}, Log: filepath.Join(g.dir, "s.log")}); err != nil {
		t.Fatal(err)
	}
	eventually.Succeeds(t, func() error {
		s, err := g.Status(t.Context(), "s")
		if err == nil && !strings.Contains(s.LastExit, "no such file") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

func TestIsolation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make namespaces")
	}
	g := launch(t, "machine-1")
	script := `hostname; ls /sys/class/net >/dev/null; echo $$; ls -A /run; touch /run/mark; exec sleep 1000`
	if err := g.Start(t.Context(), g.service("s", script)); err != nil {
		t.Fatal(err)
	}
	var inside Status
	eventually.Succeeds(t, func() (err error) {
		inside, err = g.Status(t.Context(), "s")
		if _, missing := os.Stat(fmt.Sprintf("/proc/%d/root/run/mark", g.process.PID)); err == nil && missing != nil {
			err = missing
		}
		return err
	})
	log, err := os.ReadFile(filepath.Join(g.dir, "s.log"))
	if want := fmt.Sprintf("machine-1\n%d\n", inside.PID); err != nil || string(log) != want {
		t.Errorf("log: %q, %v; want %q", log, err, want)
	}
	host, err := HostPID(g.process.PID, inside.PID)
	if err != nil {
		t.Fatal(err)
	}
	eventually.Succeeds(t, func() error {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", host))
		if err == nil && !strings.HasPrefix(string(cmdline), "sleep\x00") {
			err = fmt.Errorf("process %d is %q", host, cmdline)
		}
		return err
	})
	if _, err := os.Stat("/run/mark"); err == nil {
		t.Error("/run is not private")
	}
	process, err := FindProcess(host)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "kill", "-9", strconv.Itoa(g.process.PID)).Run(); err != nil {
		t.Fatal(err)
	}
	if !process.WaitGone(10 * time.Second) {
		t.Error("a process outlives its machine")
	}
}
