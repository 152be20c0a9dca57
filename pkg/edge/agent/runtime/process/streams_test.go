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
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/test/framework/eventually"
)

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

func TestExecSyncMuchOutput(t *testing.T) {
	d := newDevice(t)
	id := d.run(shell("sleep 1000"))
	script := fmt.Sprintf("head -c %d /dev/zero; echo err >&2; exit 1", 3*maxSyncOutput)
	stdout, stderr, err := d.ExecSync(t.Context(), id, []string{"sh", "-c", script}, 0)
	var exit utilexec.ExitError
	if len(stdout) != maxSyncOutput || string(stderr) != "err\n" || !errors.As(err, &exit) {
		t.Errorf("got %d bytes, %q, %v", len(stdout), stderr, err)
	}
}

// What a command has printed is asked for while a process that it has left behind still writes.
func TestBoundedBufferWhileWriting(t *testing.T) {
	b, line := &boundedBuffer{}, []byte("a line\n")
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 1000 {
			_, _ = b.Write(line)
		}
	}()
	for range 1000 {
		if got := b.Bytes(); len(got) != bytes.Count(got, line)*len(line) {
			t.Fatalf("got %q", got)
		}
	}
	<-written
	if got := b.Bytes(); len(got) != 1000*len(line) {
		t.Errorf("got %d bytes", len(got))
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
	eventually.Holds(t, "the command is dead", func() bool { return !command.Alive() })
	if d.status(id).State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Error("the container ended too")
	}
}

// What a command has printed arrives, also if it is taken long after the command's end.
func TestExecOutputTakenLate(t *testing.T) {
	d := newDevice(t)
	d.patience = 0
	id := d.run(shell("sleep 1000"))
	for name, tt := range map[string]struct {
		tty  bool
		size int // more than is copied at a time, less than a pipe holds; less than a terminal holds
	}{"pipes": {false, 60000}, "terminal": {true, 3000}} {
		t.Run(name, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			script := fmt.Sprintf("echo $$ > %s; exec head -c %d /dev/zero", pidFile, tt.size)
			output, out := io.Pipe()
			result := make(chan error, 1)
			go func() {
				result <- d.ExecStream(t.Context(), id, []string{"sh", "-c", script}, runtime.IO{Stdout: out, TTY: tt.tty})
				out.Close()
			}()
			eventually.Holds(t, "the command has ended", func() bool {
				data, _ := os.ReadFile(pidFile)
				pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
				return err == nil && unix.Kill(pid, 0) != nil
			})
			if got, err := io.ReadAll(output); len(got) != tt.size || err != nil {
				t.Errorf("got %d bytes of %d, %v", len(got), tt.size, err)
			}
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
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
