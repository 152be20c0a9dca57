package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/test/framework/eventually"
	"arhat.dev/aranya/test/framework/rights"
)

// asNobody is set in the process that runs a test again without privileges.
const asNobody = "PROCESS_TEST_AS_NOBODY"

// needRoot skips a test where it cannot work.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMounts(t *testing.T) {
	needRoot(t)
	d := newDevice(t)
	// The path is used by other agents on this machine too: whether it is there before does not matter.
	token := files(t, map[string]string{"token": "t0ken"})
	data := files(t, map[string]string{"file": "data"})
	mountPoint := filepath.Join("/tmp", "arhat-test-"+newID()[:8])
	hosts := filepath.Join(files(t, map[string]string{"hosts": "1.2.3.4 pod\n"}), "hosts")
	terminationFile := filepath.Join(files(t, map[string]string{"log": ""}), "log")
	config := shell("cat /var/run/secrets/kubernetes.io/serviceaccount/token; cat " + mountPoint + "/a/file; cat /etc/hosts; " +
		"echo bye > /dev/termination-log; echo new > " + mountPoint + "/a/new; echo new > /var/run/secrets/kubernetes.io/serviceaccount/new || echo read-only; " +
		"cat " + mountPoint + "/a/inner/file; echo ready; sleep 1000")
	config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: mountPoint + "/a/inner", HostPath: files(t, map[string]string{"file": "inner"})},
		{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: token, Readonly: true},
		{ContainerPath: mountPoint + "/a", HostPath: data},
		{ContainerPath: "/etc/hosts", HostPath: hosts, Readonly: true},
		{ContainerPath: "/dev/termination-log", HostPath: terminationFile},
	}
	id := d.run(config)
	second := d.run(config)
	// Both: they share a log and the files that they write, and writing begins with making a file empty.
	eventually.Holds(t, "both containers have written all", func() bool { return strings.Count(d.log(), "ready") == 2 })
	for _, want := range []string{"t0ken", "data", "1.2.3.4 pod", "stdout F read-only", "inner"} {
		if !strings.Contains(d.log(), want) {
			t.Errorf("%q is missing in %s", want, d.log())
		}
	}
	if text, err := os.ReadFile(terminationFile); err != nil || string(text) != "bye\n" {
		t.Errorf("the termination log is %q, %v", text, err)
	}
	if text, err := os.ReadFile(filepath.Join(data, "new")); err != nil || string(text) != "new\n" {
		t.Errorf("the new file is %q, %v", text, err)
	}
	if entries, err := os.ReadDir(mountPoint + "/a"); err != nil || len(entries) != 0 {
		t.Errorf("the host sees %v, %v in the container's mount", entries, err)
	}
	stdout, _, err := d.ExecSync(t.Context(), id, []string{"cat", mountPoint + "/a/file"}, 0)
	if err != nil || string(stdout) != "data" {
		t.Errorf("exec sees %q, %v", stdout, err)
	}
	// The mount points go with the last container that uses them, also over a restart of the agent.
	d.restart()
	if err := d.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if stdout, _, err := d.ExecSync(t.Context(), second, []string{"cat", mountPoint + "/a/file"}, 0); err != nil || string(stdout) != "data" {
		t.Errorf("the other container sees %q, %v", stdout, err)
	}
	if err := d.RemoveContainer(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(mountPoint); !os.IsNotExist(err) {
		t.Errorf("the mount point is still there: %v", err)
	}
}

// TestMountPointOfTwoAgents checks that one agent does not remove, and so unmount, what another uses.
func TestMountPointOfTwoAgents(t *testing.T) {
	needRoot(t)
	one, two := newDevice(t), newDevice(t)
	mountPoint := filepath.Join("/run", "arhat-test-"+newID()[:8], "volume")
	config := shell("echo ready; sleep 1000")
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: mountPoint, HostPath: files(t, map[string]string{"file": "data"})}}
	first, second := one.run(config), two.run(config)
	if err := one.RemoveContainer(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if stdout, _, err := two.ExecSync(t.Context(), second, []string{"cat", mountPoint + "/file"}, 0); err != nil || string(stdout) != "data" {
		t.Errorf("the other agent's container sees %q, %v", stdout, err)
	}
	if err := two.RemoveContainer(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Dir(mountPoint)); !os.IsNotExist(err) {
		t.Errorf("the mount point is still there: %v", err)
	}
}

func TestHostMountsAppear(t *testing.T) {
	needRoot(t)
	d := newDevice(t)
	source := t.TempDir()
	if err := os.Mkdir(filepath.Join(source, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := shell("while ! test -e /mnt/sub/file; do sleep 0.01; done; echo seen; sleep 1000")
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mnt", HostPath: source, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}}
	if err := syscall.Mount(source, source, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(source, syscall.MNT_DETACH) }()
	if err := syscall.Mount("", source, "", syscall.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	d.run(config)
	other := files(t, map[string]string{"file": "x"})
	if err := syscall.Mount(other, filepath.Join(source, "sub"), "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(filepath.Join(source, "sub"), syscall.MNT_DETACH) }()
	d.waitLog("seen")
}

// userIDs are the ids of a user, of the group and of the further groups.
func userIDs(u *runtimeapi.LinuxContainerUser) string {
	text := fmt.Sprint(u.GetUid(), u.GetGid())
	for _, g := range u.GetSupplementalGroups() {
		text += fmt.Sprintf(" %d", g)
	}
	return text
}

func TestRunAsUser(t *testing.T) {
	needRoot(t)
	d := newDevice(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.ParseInt(nobody.Uid, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		context *runtimeapi.LinuxContainerSecurityContext
		want    string
	}{
		"id":      {&runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: uid}, RunAsGroup: &runtimeapi.Int64Value{Value: 4321}, SupplementalGroups: []int64{1234}}, nobody.Uid + " 4321 1234"},
		"name":    {&runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "nobody"}, nobody.Uid + " " + nobody.Gid},
		"unknown": {&runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 54321}}, "54321 0"},
		"root":    {nil, "0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			config := shell(fmt.Sprintf("echo opened > /dev/stderr; echo %s: $(id -u) $(id -g) $(id -G); grep NoNewPrivs /proc/self/status; sleep 1000", name))
			config.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: tt.context}
			id := d.run(config)
			d.waitLog("NoNewPrivs")
			d.waitLog("stderr F opened\n")
			d.restart() // the status tells it all the same
			if got := userIDs(d.status(id).User.GetLinux()); !strings.HasPrefix(got, tt.want) {
				t.Errorf("the status tells of %q, want %q first", got, tt.want)
			}
			want := strings.Fields(tt.want)
			if !strings.Contains(d.log(), name+": "+want[0]+" "+want[1]+" ") || !strings.Contains(d.log(), want[len(want)-1]) {
				t.Errorf("got %s, want %s", d.log(), tt.want)
			}
			stdout, stderr, err := d.ExecSync(t.Context(), id, []string{"/bin/sh", "-c", "id -u > /dev/stdout; echo opened > /dev/stderr"}, 0)
			if err != nil || strings.TrimSpace(string(stdout)) != want[0] || string(stderr) != "opened\n" {
				t.Errorf("exec runs as %q, says %q, %v", stdout, stderr, err)
			}
			if err := d.RemoveContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(d.logs, "web", "main", "0.log")); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("no new privileges", func(t *testing.T) {
		config := shell("grep NoNewPrivs /proc/self/status; sleep 1000")
		config.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NoNewPrivs: true}}
		d.run(config)
		d.waitLog("NoNewPrivs:\t1")
	})
}

// Root need not be allowed to mount, as in most containers and in a hardened unit. Containers run all the same.
func TestRootThatCannotMount(t *testing.T) {
	needRoot(t)
	rights.Without(t, unix.CAP_SYS_ADMIN)
	d := newDevice(t)
	config := shell("cat $ARHAT_MOUNT_VAR_RUN_SECRETS_KUBERNETES_IO_SERVICEACCOUNT/token; echo ready; sleep 1000")
	config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: serviceAccountPath, HostPath: files(t, map[string]string{"token": "t0ken\n"}), Readonly: true},
	}
	d.run(config)
	if d.waitLog("ready"); !strings.Contains(d.log(), "t0ken") {
		t.Errorf("the container says %s", d.log())
	}
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/etc/not-there/config", HostPath: t.TempDir()}}
	if _, err := d.CreateContainer(t.Context(), d.sandbox, config, nil); err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("another volume gave %v", err)
	}
}

// TestUnprivileged runs the test below again as nobody.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where nobody can reach it.
	dir, err := os.MkdirTemp("/tmp", "arhat-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(executable)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "process.test")
	if err := os.WriteFile(copied, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestAsNobody$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asNobody+"=1", "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	output, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(output, []byte("no tests to run")) {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
}

func TestAsNobody(t *testing.T) {
	if os.Getenv(asNobody) == "" && os.Geteuid() == 0 {
		t.Skip("run by TestUnprivileged")
	}
	token := files(t, map[string]string{"token": "t0ken"})
	config := func() *runtimeapi.ContainerConfig {
		c := shell("cat /var/run/secrets/kubernetes.io/serviceaccount/token || cat $ARHAT_MOUNT_VAR_RUN_SECRETS_KUBERNETES_IO_SERVICEACCOUNT/token; " +
			"grep CapAmb /proc/self/status; grep CapEff /proc/self/status; id -u; echo ready; sleep 1000")
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: serviceAccountPath, HostPath: token, Readonly: true}}
		return c
	}
	volume := func() *runtimeapi.ContainerConfig {
		c := config()
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{ContainerPath: "/etc/not-there/config", HostPath: token})
		c.Args[0] = "cat /etc/not-there/config/token; " + c.Args[0]
		return c
	}
	check := func(d *device) {
		t.Helper()
		d.waitLog("ready")
		for _, want := range []string{"t0ken", "CapAmb:\t0000000000000000", "CapEff:\t0000000000000000", fmt.Sprintf("stdout F %d", os.Geteuid())} {
			if !strings.Contains(d.log(), want) {
				t.Errorf("%q is missing in %s", want, d.log())
			}
		}
	}
	t.Run("user namespace", func(t *testing.T) {
		if err := shim.CanMount(shim.MountUserNamespace); err != nil {
			t.Skipf("the system denies it: %v", err)
		}
		d := newDevice(t)
		id := d.run(volume())
		check(d)
		if stdout, _, err := d.ExecSync(t.Context(), id, []string{"cat", "/etc/not-there/config/token"}, 0); err != nil || string(stdout) != "t0ken" {
			t.Errorf("exec sees %q, %v", stdout, err)
		}
	})
	t.Run("no namespaces", func(t *testing.T) {
		d := newDevice(t)
		d.mountMode, d.mountErr = shim.MountNone, mountsDenied(os.ErrPermission)
		d.run(config())
		check(d)
		if _, err := d.CreateContainer(t.Context(), d.sandbox, volume(), nil); err == nil || !strings.Contains(err.Error(), "run arhat as root") {
			t.Errorf("another volume gave %v", err)
		}
	})
	t.Run("another user", func(t *testing.T) {
		d := newDevice(t)
		c := shell("true")
		c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 0}}}
		if _, err := d.CreateContainer(t.Context(), d.sandbox, c, nil); err == nil || !strings.Contains(err.Error(), "run arhat as root") {
			t.Errorf("got %v", err)
		}
	})
}
