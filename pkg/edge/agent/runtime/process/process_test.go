package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

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

func TestOOMScore(t *testing.T) {
	score := func(pid int) int {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		score, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return score
	}
	for name, want := range map[string]int{"best effort": 1000, "guaranteed": -997} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			config := shell("sleep 1000")
			config.Linux = &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{OomScoreAdj: int64(want)}}
			id := d.run(config)
			main, err := shim.ReadStat(d.pid(id))
			if err != nil {
				t.Fatal(err)
			}
			own, of := score(os.Getpid()), score(main.PID)
			if of != want && (want > own || of != own) { // a lower one takes a right
				t.Errorf("the process has %d", of)
			}
			if got := score(main.PPID); got != min(own, of) {
				t.Errorf("the shim has %d", got)
			}
			if stdout, _, err := d.ExecSync(t.Context(), id, []string{"cat", "/proc/self/oom_score_adj"}, 0); err != nil || string(stdout) != fmt.Sprintln(of) {
				t.Errorf("a command has %q, %v", stdout, err)
			}
		})
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
	if info, err := d.ImageFsInfo(ctx); err != nil || len(info.ImageFilesystems) != 0 || len(info.ContainerFilesystems) != 0 {
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
	if root := os.Geteuid() == 0; got.Features.SupplementalGroupsPolicy != root {
		t.Errorf("as root %t: %v", root, got.Features)
	}
	version, err := d.Version(t.Context(), "")
	if err != nil || version.RuntimeName != "process" || version.RuntimeVersion != "1.2.3" {
		t.Errorf("got %v, %v", version, err)
	}
}
