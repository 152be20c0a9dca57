package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const patience = 30 * time.Second

// device is a runtime with its directories.
type device struct {
	*Runtime
	t       *testing.T
	options Options
	logs    string
	sandbox string
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{t: t, logs: t.TempDir(), options: Options{
		// Longer than a socket address may be.
		StateDir: filepath.Join(t.TempDir(), strings.Repeat("long", 30), "process"), Version: "1.2.3",
		HostIP: func() string { return "192.0.2.1" },
	}}
	d.open()
	t.Cleanup(func() {
		ctx := context.Background()
		sandboxes, err := d.ListPodSandbox(ctx, nil)
		if err != nil {
			t.Error(err)
		}
		for _, s := range sandboxes {
			if err := d.RemovePodSandbox(ctx, s.Id); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	id, err := d.RunPodSandbox(t.Context(), d.podConfig("web"), "")
	if err != nil {
		t.Fatal(err)
	}
	d.sandbox = id
	return d
}

func (d *device) open() {
	d.t.Helper()
	r, err := New(d.t.Context(), d.options)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Runtime = r
}

// restart is what the containers see of an agent that is killed and started again.
func (d *device) restart() {
	d.t.Helper()
	if err := d.Close(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

func (d *device) podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Hostname: name, LogDirectory: filepath.Join(d.logs, name), Labels: map[string]string{"app": name},
	}
}

func shell(script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "host"},
		Command: []string{"/bin/sh", "-c"}, Args: []string{script}, LogPath: "main/0.log", Labels: map[string]string{"c": "main"},
	}
}

func (d *device) create(config *runtimeapi.ContainerConfig) string {
	d.t.Helper()
	id, err := d.CreateContainer(d.t.Context(), d.sandbox, config, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) run(config *runtimeapi.ContainerConfig) string {
	d.t.Helper()
	id := d.create(config)
	if err := d.StartContainer(d.t.Context(), id); err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) status(id string) *runtimeapi.ContainerStatus {
	d.t.Helper()
	response, err := d.ContainerStatus(d.t.Context(), id, true)
	if err != nil {
		d.t.Fatal(err)
	}
	return response.Status
}

func (d *device) exited(id string) *runtimeapi.ContainerStatus {
	d.t.Helper()
	eventually(d.t, "the container ends", func() bool {
		return d.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return d.status(id)
}

func (d *device) log() string {
	data, err := os.ReadFile(filepath.Join(d.logs, "web", "main", "0.log"))
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return string(data)
}

func (d *device) waitLog(text string) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("the log has %q", text), func() bool { return strings.Contains(d.log(), text) })
}

func (d *device) pid(id string) int {
	d.t.Helper()
	c, err := d.container(id)
	if err != nil {
		d.t.Fatal(err)
	}
	_, started, _ := c.state()
	return started.PID
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		script string
		code   int32
		reason string
	}{
		{"exit 0", 0, "Completed"},
		{"exit 42", 42, "Error"},
		{"kill -9 $$", 137, "Error"},
		{"kill -15 $$", 143, "Error"},
	} {
		t.Run(tt.script, func(t *testing.T) {
			d := newDevice(t)
			id := d.create(shell(tt.script))
			if got := d.status(id); got.State != runtimeapi.ContainerState_CONTAINER_CREATED || got.StartedAt != 0 || got.CreatedAt == 0 {
				t.Errorf("after create: %v", got)
			}
			if err := d.StartContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			got := d.exited(id)
			if got.ExitCode != tt.code || got.Reason != tt.reason {
				t.Errorf("got exit code %d, reason %q, want %d, %q", got.ExitCode, got.Reason, tt.code, tt.reason)
			}
			if got.CreatedAt > got.StartedAt || got.StartedAt > got.FinishedAt || time.Since(time.Unix(0, got.FinishedAt)) > time.Hour {
				t.Errorf("times are not in order: %d %d %d", got.CreatedAt, got.StartedAt, got.FinishedAt)
			}
			if err := d.StartContainer(t.Context(), id); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("a second start gave %v", err)
			}
		})
	}
}

func TestLogFormat(t *testing.T) {
	d := newDevice(t)
	d.exited(d.run(shell(`echo out; echo err >&2; head -c 20000 /dev/zero | tr '\0' x; printf '\nno end'`)))
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(d.log()), "\n") {
		at, rest, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			t.Errorf("line %.60q has no time: %v", line, err)
		}
		if len(rest) > 100 {
			rest = fmt.Sprintf("%s…%d", rest[:9], len(rest)-9)
		}
		if strings.HasPrefix(rest, "stderr") {
			got = append([]string{rest}, got...) // the streams are not in order with each other
			continue
		}
		got = append(got, rest)
	}
	want := []string{"stderr F err", "stdout F out", "stdout P …16384", "stdout F …3616", "stdout F no end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLogRotation(t *testing.T) {
	d := newDevice(t)
	config := shell("while read line; do echo got $line; done")
	config.Stdin = true
	id := d.run(config)
	input, feed := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	attached := make(chan error, 1)
	go func() { attached <- d.AttachStream(ctx, id, runtime.IO{Stdin: input}) }()
	fmt.Fprintln(feed, "one")
	d.waitLog("got one")
	path := filepath.Join(d.logs, "web", "main", "0.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := d.ReopenContainerLog(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(feed, "two")
	d.waitLog("got two")
	if strings.Contains(d.log(), "one") {
		t.Error("the new file has old lines")
	}
	cancel()
	feed.Close()
	if err := <-attached; !errors.Is(err, context.Canceled) {
		t.Errorf("attach ended with %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	d := newDevice(t)
	for name, tt := range map[string]struct {
		change func(*runtimeapi.ContainerConfig)
		want   string
	}{
		"missing":   {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"no-such-program"} }, `exec: "no-such-program": executable file not found in $PATH`},
		"path":      {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/no/such/program"} }, `exec: "/no/such/program": no such file or directory`},
		"directory": {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/etc"} }, `exec: "/etc": is a directory`},
		"mode":      {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/etc/passwd"} }, `exec: "/etc/passwd": permission denied`},
		"cwd":       {func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/no/such/dir" }, `the working directory "/no/such/dir" does not exist`},
	} {
		t.Run(name, func(t *testing.T) {
			config := shell("true")
			tt.change(config)
			id := d.create(config)
			err := d.StartContainer(t.Context(), id)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("start gave %v, want %q", err, tt.want)
			}
			got := d.status(id)
			if got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 128 || got.Reason != "StartError" || !strings.Contains(got.Message, tt.want) {
				t.Errorf("status is %v", got)
			}
		})
	}
}

func TestCreateErrors(t *testing.T) {
	d := newDevice(t)
	for name, tt := range map[string]struct {
		change func(*runtimeapi.ContainerConfig)
		want   string
	}{
		"image":   {func(c *runtimeapi.ContainerConfig) { c.Image.Image = "nginx" }, `cannot run the image "nginx"`},
		"command": {func(c *runtimeapi.ContainerConfig) { c.Command, c.Args = nil, nil }, "set the container's command"},
		"mount point": {func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/opt-that-is-not-there/config"}}
		}, "create it on the device, or choose another mountPath"},
		"propagation": {func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/mnt", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}, "bidirectional"},
		"user": {func(c *runtimeapi.ContainerConfig) {
			c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "nobody-knows-me"}}
		}, `no user "nobody-knows-me"`},
	} {
		t.Run(name, func(t *testing.T) {
			config := shell("true")
			tt.change(config)
			if _, err := d.CreateContainer(t.Context(), d.sandbox, config, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := d.CreateContainer(t.Context(), "none", shell("true"), nil); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown sandbox gave %v", err)
	}
}

func TestStop(t *testing.T) {
	d := newDevice(t)
	t.Run("graceful", func(t *testing.T) {
		id := d.run(shell("trap 'exit 7' TERM; echo ready-a; while :; do sleep 0.01; done"))
		d.waitLog("ready-a")
		if err := d.StopContainer(t.Context(), id, 30); err != nil {
			t.Fatal(err)
		}
		if got := d.status(id); got.ExitCode != 7 {
			t.Errorf("got exit code %d", got.ExitCode)
		}
		if err := d.StopContainer(t.Context(), id, 30); err != nil {
			t.Errorf("a second stop gave %v", err)
		}
	})
	t.Run("stubborn", func(t *testing.T) {
		id := d.run(shell("trap '' TERM; echo ready-b; while :; do sleep 0.01; done"))
		d.waitLog("ready-b")
		if err := d.StopContainer(t.Context(), id, 1); err != nil {
			t.Fatal(err)
		}
		if got := d.status(id); got.ExitCode != 137 {
			t.Errorf("got exit code %d", got.ExitCode)
		}
	})
	t.Run("stop signal", func(t *testing.T) {
		config := shell("trap 'exit 9' USR1; echo ready-c; while :; do sleep 0.01; done")
		config.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
		id := d.run(config)
		d.waitLog("ready-c")
		if err := d.StopContainer(t.Context(), id, 30); err != nil {
			t.Fatal(err)
		}
		if got := d.status(id); got.ExitCode != 9 {
			t.Errorf("got exit code %d", got.ExitCode)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		if err := errors.Join(d.StopContainer(t.Context(), "none", 1), d.RemoveContainer(t.Context(), "none"), d.StopPodSandbox(t.Context(), "none"), d.RemovePodSandbox(t.Context(), "none")); err != nil {
			t.Error(err)
		}
		if _, err := d.ContainerStatus(t.Context(), "none", false); status.Code(err) != codes.NotFound {
			t.Errorf("got %v", err)
		}
		if _, err := d.PodSandboxStatus(t.Context(), "none", false); status.Code(err) != codes.NotFound {
			t.Errorf("got %v", err)
		}
	})
}

// TestDescendantsEnd checks that a process that left the process group ends with its container.
func TestDescendantsEnd(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("setsid sh -c 'echo child $$; exec sleep 1000' & sleep 1000"))
	d.waitLog("child")
	_, text, _ := strings.Cut(d.log(), "child ")
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil {
		t.Fatal(err)
	}
	child, err := shim.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := d.ContainerStats(t.Context(), id)
	if err != nil || stats.Memory.WorkingSetBytes.Value == 0 || stats.Cpu.Timestamp == 0 {
		t.Errorf("stats are %v, %v", stats, err)
	}
	pods, err := d.ListPodSandboxStats(t.Context(), nil)
	if err != nil || len(pods) != 1 || pods[0].Linux.Process.ProcessCount.Value < 2 {
		t.Errorf("pod stats are %v, %v", pods, err)
	}
	if err := d.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if child.Alive() {
		t.Error("the child lives on")
	}
}

func TestRestart(t *testing.T) {
	d := newDevice(t)
	config := shell("echo secret is $SECRET; trap 'exit 5' TERM; while :; do sleep 0.01; done")
	config.Envs = []*runtimeapi.KeyValue{{Key: "SECRET", Value: []byte("s3cr3t")}}
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
	if c, err := d.loadContainer(running); err != nil || len(c.config.Envs) != 0 {
		t.Errorf("the record holds the environment: %v, %v", c.config.Envs, err)
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
	eventually(t, "the shim ends", func() bool { return !shim.Alive(dir) })
	d.open()
	if got := d.exited(id); got.ExitCode != 6 {
		t.Errorf("got %v", got)
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
	eventually(t, "the shim is gone", func() bool { return !shim.Alive(filepath.Join(d.containersDir(), id)) })
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

func TestExec(t *testing.T) {
	d := newDevice(t)
	config := shell("sleep 1000")
	config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b c")}}
	config.WorkingDir = "/usr"
	id := d.run(config)

	stdout, stderr, err := d.ExecSync(t.Context(), id, []string{"sh", "-c", "pwd; echo $A; echo err >&2; exit 42"}, time.Minute)
	var exit utilexec.ExitError
	if string(stdout) != "/usr\nb c\n" || string(stderr) != "err\n" || !errors.As(err, &exit) || exit.ExitStatus() != 42 {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
	if _, _, err := d.ExecSync(t.Context(), id, []string{"sleep", "1000"}, 50*time.Millisecond); !errors.Is(err, remote.ErrCommandTimedOut) {
		t.Errorf("got %v", err)
	}
	if err := d.ExecStream(t.Context(), id, []string{"no-such-program"}, runtime.IO{}); err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("got %v", err)
	}
	// Half-close: the end of the input reaches the command, and its answer still comes.
	out := &bytes.Buffer{}
	if err := d.ExecStream(t.Context(), id, []string{"sh", "-c", "wc -c; echo done"}, runtime.IO{Stdin: strings.NewReader(strings.Repeat("x", 1<<20)), Stdout: out}); err != nil || out.String() != "1048576\ndone\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestExecEndsWithContext(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- d.ExecStream(ctx, id, []string{"sh", "-c", "echo $$; exec sleep 1000"}, runtime.IO{Stdout: write})
	}()
	var pid int
	if _, err := fmt.Fscan(read, &pid); err != nil {
		t.Fatal(err)
	}
	command, err := shim.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the command is dead", func() bool { return !command.Alive() })
	if d.status(id).State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Error("the container ended too")
	}
}

func TestExecTerminal(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	resize := make(chan runtime.TerminalSize, 1)
	resize <- runtime.TerminalSize{Width: 123, Height: 45}
	input, feed := io.Pipe()
	output, out := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- d.ExecStream(t.Context(), id, []string{"sh", "-c", "while [ \"$(stty size)\" != '45 123' ]; do sleep 0.01; done; tty; read x; echo \"read $x\"; exit 3"},
			runtime.IO{Stdin: input, Stdout: out, TTY: true, Resize: resize})
		out.Close()
		input.Close()
	}()
	got := make([]byte, 8)
	if _, err := io.ReadFull(output, got); err != nil || string(got) != "/dev/pts" {
		t.Errorf("got %q, %v", got, err)
	}
	fmt.Fprintln(feed, "hello")
	rest, err := io.ReadAll(output)
	if err != nil || !strings.Contains(string(rest), "read hello\r\n") {
		t.Errorf("got %q, %v", rest, err)
	}
	var exit utilexec.ExitError
	if err := <-result; !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("got %v", err)
	}
}

func TestAttach(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprintf("tty=%t", tty), func(t *testing.T) {
			d := newDevice(t)
			config := shell("while read line; do echo \"got $line\"; done; echo end; exit 4")
			config.Stdin, config.StdinOnce, config.Tty = true, true, tty
			id := d.run(config)
			if err := d.AttachStream(t.Context(), id, runtime.IO{TTY: !tty}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("a terminal that does not match gave %v", err)
			}
			input, feed := io.Pipe()
			output, out := io.Pipe()
			result := make(chan error, 1)
			go func() {
				result <- d.AttachStream(t.Context(), id, runtime.IO{Stdin: input, Stdout: out, TTY: tty})
				out.Close()
			}()
			fmt.Fprintln(feed, "one")
			buffer := make([]byte, 4096)
			var got string
			for !strings.Contains(got, "got one") {
				n, err := output.Read(buffer)
				if err != nil {
					t.Fatalf("after %q: %v", got, err)
				}
				got += string(buffer[:n])
			}
			if tty {
				fmt.Fprint(feed, "\x04") // a terminal's end of file
			}
			feed.Close()
			rest, err := io.ReadAll(output)
			if err != nil || !strings.Contains(string(rest), "end") {
				t.Errorf("got %q, %v", rest, err)
			}
			if err := <-result; err != nil {
				t.Error(err)
			}
			if got := d.exited(id); got.ExitCode != 4 {
				t.Errorf("got %v", got)
			}
			d.waitLog("stdout F end")
		})
	}
}

func TestDialPod(t *testing.T) {
	d := newDevice(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "got %s", data)
	}()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	conn, err := d.DialPod(t.Context(), d.sandbox, port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if data, err := io.ReadAll(conn); err != nil || string(data) != "got hello" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := d.DialPod(t.Context(), "none", port); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestListsAndSandbox(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	ctx := t.Context()
	if _, err := d.RunPodSandbox(ctx, d.podConfig("web"), ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second sandbox of the same attempt gave %v", err)
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	exited := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}
	for name, tt := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   int
	}{
		"all":           {nil, 1},
		"id":            {&runtimeapi.ContainerFilter{Id: id}, 1},
		"beginning":     {&runtimeapi.ContainerFilter{Id: id[:12]}, 1},
		"other id":      {&runtimeapi.ContainerFilter{Id: "none"}, 0},
		"sandbox":       {&runtimeapi.ContainerFilter{PodSandboxId: d.sandbox}, 1},
		"other sandbox": {&runtimeapi.ContainerFilter{PodSandboxId: "none"}, 0},
		"running":       {&runtimeapi.ContainerFilter{State: running}, 1},
		"exited":        {&runtimeapi.ContainerFilter{State: exited}, 0},
		"label":         {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"c": "main"}}, 1},
		"other label":   {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"c": "x"}}, 0},
	} {
		if got, err := d.ListContainers(ctx, tt.filter); err != nil || len(got) != tt.want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	if got, err := d.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{State: ready, LabelSelector: map[string]string{"app": "web"}}); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := d.PodSandboxStatus(ctx, d.sandbox, false); err != nil || got.Status.Network.Ip != "192.0.2.1" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := d.StopPodSandbox(ctx, d.sandbox); err != nil {
		t.Fatal(err)
	}
	if got := d.status(id); got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 {
		t.Errorf("got %v", got)
	}
	if got, err := d.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{State: ready}); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := d.CreateContainer(ctx, d.sandbox, shell("true"), nil); err == nil {
		t.Error("a container was created in a stopped sandbox")
	}
	if err := d.RemovePodSandbox(ctx, d.sandbox); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ListContainers(ctx, nil); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, dir := range []string{d.sandboxDir(), d.containersDir()} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s still holds %v, %v", dir, entries, err)
		}
	}
}

func TestImages(t *testing.T) {
	d := newDevice(t)
	ctx := t.Context()
	for _, name := range []string{"host", "host:latest", "docker.io/library/host:latest"} {
		spec := &runtimeapi.ImageSpec{Image: name}
		if ref, err := d.PullImage(ctx, spec, nil, nil); err != nil || ref != "host" {
			t.Errorf("pull of %s gave %q, %v", name, ref, err)
		}
		if got, err := d.ImageStatus(ctx, spec, false); err != nil || got.Image.GetId() != "host" || got.Image.Uid.Value != int64(os.Geteuid()) {
			t.Errorf("status of %s is %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"nginx", "hosts", "example.org/host:latest", "host:1"} {
		spec := &runtimeapi.ImageSpec{Image: name}
		if _, err := d.PullImage(ctx, spec, nil, nil); err == nil || !strings.Contains(err.Error(), "no container runtime") {
			t.Errorf("pull of %s gave %v", name, err)
		}
		if got, err := d.ImageStatus(ctx, spec, false); err != nil || got.Image != nil {
			t.Errorf("status of %s is %v, %v", name, got, err)
		}
	}
	if info, err := d.ImageFsInfo(ctx); err != nil || info.ImageFilesystems[0].FsId.Mountpoint != d.options.StateDir {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestStatus(t *testing.T) {
	d := newDevice(t)
	got, err := d.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range got.Status.Conditions {
		if !c.Status {
			t.Errorf("%s is false", c.Type)
		}
	}
	version, err := d.Version(t.Context(), "")
	if err != nil || version.RuntimeName != "process" || version.RuntimeVersion != "1.2.3" {
		t.Errorf("got %v, %v", version, err)
	}
}
