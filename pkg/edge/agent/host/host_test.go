package host

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/config"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestPolicy checks for every kind of session on the host that both policies count, and that the
// refusal says which forbids it.
func TestPolicy(t *testing.T) {
	agentLog := &edgeapi.Log{Source: &edgeapi.Log_Agent{Agent: true}, TailLines: -1, LimitBytes: -1}
	type change = func(*config.Configuration, *edgeapi.HostPolicy)
	for name, tt := range map[string]struct {
		request      *edgeapi.OpenStream
		local, cloud change
		file, spec   string
	}{
		"exec": {
			execRequest(sh("true")),
			func(c *config.Configuration, _ *edgeapi.HostPolicy) { c.Policy.HostExec = ptr.To(false) },
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowExec = false },
			"policy.hostExec", "spec.host.allowExec",
		},
		"attach": {
			&edgeapi.OpenStream{Request: &edgeapi.OpenStream_Attach{Attach: &edgeapi.Attach{Stdout: true}}},
			func(c *config.Configuration, _ *edgeapi.HostPolicy) { c.Policy.HostAttach = ptr.To(false) },
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowAttach = false },
			"policy.hostAttach", "spec.host.allowAttach",
		},
		"agent log": {
			logRequest(agentLog),
			func(c *config.Configuration, _ *edgeapi.HostPolicy) { c.Policy.HostLog.Allow = ptr.To(false) },
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowLog = false },
			"policy.hostLog.allow", "spec.host.allowLog",
		},
		"log file": {
			logRequest(&edgeapi.Log{Source: &edgeapi.Log_Path{Path: "/etc/passwd"}}),
			func(*config.Configuration, *edgeapi.HostPolicy) {},
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowLog = false },
			"policy.hostLog.paths", "spec.host.allowLog",
		},
		"unit": {
			logRequest(&edgeapi.Log{Source: &edgeapi.Log_Unit{Unit: "ssh.service"}}),
			func(c *config.Configuration, _ *edgeapi.HostPolicy) {
				c.Policy.HostLog.Units = []string{"cron.service"}
			},
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowLog = false },
			"policy.hostLog.units", "spec.host.allowLog",
		},
		"loopback": {
			dialRequest(&edgeapi.Dial{Port: 1}),
			func(c *config.Configuration, _ *edgeapi.HostPolicy) {
				c.Policy.HostPortForward.AllowLoopback = ptr.To(false)
			},
			func(_ *config.Configuration, p *edgeapi.HostPolicy) { p.AllowPortForward = false },
			"policy.hostPortForward.allowLoopback", "spec.host.allowPortForward",
		},
		"network": {
			dialRequest(&edgeapi.Dial{Host: "203.0.113.1", Port: 1}),
			func(*config.Configuration, *edgeapi.HostPolicy) {},
			func(c *config.Configuration, p *edgeapi.HostPolicy) {
				c.Policy.HostPortForward.AllowedDestinations = []string{"203.0.113.0/24"}
				p.AllowPortForward = false
			},
			"policy.hostPortForward.allowedDestinations", "spec.host.allowPortForward",
		},
	} {
		t.Run(name, func(t *testing.T) {
			local := open(t, newHost(t, tt.local), tt.request).refused()
			if local.Reason != "Forbidden" || !strings.Contains(local.Message, "device's own policy") || !strings.Contains(local.Message, tt.file) {
				t.Errorf("the device's refusal is %v", local)
			}
			cloud := open(t, newHost(t, tt.cloud), tt.request).refused()
			if cloud.Reason != "Forbidden" || !strings.Contains(cloud.Message, "EdgeDevice forbids") || !strings.Contains(cloud.Message, tt.spec) {
				t.Errorf("the cloud's refusal is %v", cloud)
			}
			before := newHost(t)
			before.SetCloudPolicy(nil)
			if name == "network" {
				return
			}
			if got := open(t, before, tt.request).refused(); got.Reason != "Forbidden" {
				t.Errorf("before Welcome: %v", got)
			}
		})
	}
}

func TestExec(t *testing.T) {
	h := newHost(t)
	for name, tt := range map[string]struct {
		request        *edgeapi.Exec
		stdout, stderr string
		code           int32
	}{
		"streams":   {sh("echo out; echo err >&2; exit 42"), "out\n", "err\n", 42},
		"signal":    {sh("kill -9 $$"), "", "", 137},
		"no shell":  {&edgeapi.Exec{Command: []string{"echo", "$HOME; exit 3", "a b"}, Stdout: true}, "$HOME; exit 3 a b\n", "", 0},
		"no stdin":  {sh("cat; echo end"), "end\n", "", 0},
		"left over": {sh("sleep 100 & echo started"), "started\n", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, result := open(t, h, execRequest(tt.request)).finish()
			if stdout != tt.stdout || stderr != tt.stderr || result.GetExitCode() != tt.code || result.GetReason() != "" {
				t.Errorf("got %q, %q, %v", stdout, stderr, result)
			}
		})
	}
	t.Run("environment", func(t *testing.T) {
		t.Setenv("AGENT_SECRET", "x")
		stdout, _, _ := open(t, h, execRequest(sh("env"))).finish()
		for _, name := range []string{"PATH=", "HOME=", "USER=", "SHELL="} {
			if !strings.Contains(stdout, name) {
				t.Errorf("%s is missing in %q", name, stdout)
			}
		}
		if strings.Contains(stdout, "AGENT_SECRET") {
			t.Error("the agent's environment is passed on")
		}
	})
	t.Run("not found", func(t *testing.T) {
		got := open(t, h, execRequest(&edgeapi.Exec{Command: []string{"no-such-program"}})).refused()
		if got.Reason != "BadRequest" || !strings.Contains(got.Message, "no-such-program") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("no command", func(t *testing.T) {
		if got := open(t, h, execRequest(&edgeapi.Exec{})).refused(); got.Reason != "BadRequest" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		request := sh("wc -c; echo end")
		request.Stdin = true
		s := open(t, h, execRequest(request))
		go func() {
			w := s.Writer(edgeapi.Channel_STDIN)
			_, _ = w.Write(make([]byte, 1<<20))
			_ = w.Close()
		}()
		if stdout, _, result := s.finish(); stdout != "1048576\nend\n" || result.GetExitCode() != 0 {
			t.Errorf("got %q, %v", stdout, result)
		}
	})
}

// TestSessionCutOff checks that a command and its children end with their session.
func TestSessionCutOff(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprintf("tty=%t", tty), func(t *testing.T) {
			request := sh("trap '' HUP TERM; sleep 1000 & echo $!; wait")
			request.Tty = tty
			s := open(t, newHost(t), execRequest(request))
			var pid int
			if _, err := fmt.Fscan(s.Reader(edgeapi.Channel_STDOUT), &pid); err != nil {
				t.Fatal(err)
			}
			s.Close()
			s.cancel()
			s.waitEnded()
			eventually.Holds(t, "the child is dead", func() bool { return syscall.Kill(pid, 0) != nil })
		})
	}
}

func TestTerminal(t *testing.T) {
	request := sh("while [ \"$(stty size)\" != '45 123' ]; do sleep 0.01; done; tty; echo TERM=$TERM; read x; echo \"read $x\"; exit 3")
	request.Tty, request.Stdin = true, true
	s := open(t, newHost(t), execRequest(request))
	if err := s.Resize(123, 45); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(s.Reader(edgeapi.Channel_STDOUT))
	if line, err := out.ReadString('\n'); err != nil || !strings.HasPrefix(line, "/dev/pts/") {
		t.Errorf("got %q, %v", line, err)
	}
	if line, err := out.ReadString('\n'); err != nil || line != "TERM=xterm\r\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if _, err := io.WriteString(s.Writer(edgeapi.Channel_STDIN), "hello\n"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil || !strings.Contains(string(rest), "read hello\r\n") {
		t.Errorf("got %q, %v", rest, err)
	}
	if _, _, result := s.finish(); result.GetExitCode() != 3 {
		t.Errorf("got %v", result)
	}
}

func TestAttachRunsLoginShell(t *testing.T) {
	request := &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Attach{Attach: &edgeapi.Attach{Stdin: true, Stdout: true}}}
	for name, shell := range map[string][]string{"default": nil, "configured": {"/bin/sh", "-l"}} {
		t.Run(name, func(t *testing.T) {
			s := open(t, newHost(t, func(c *config.Configuration, _ *edgeapi.HostPolicy) { c.Shell = shell }), request)
			if _, err := io.WriteString(s.Writer(edgeapi.Channel_STDIN), "echo shell is $0; exit 5\n"); err != nil {
				t.Fatal(err)
			}
			stdout, _, result := s.finish()
			want := "shell is -" // a login shell
			if shell != nil {
				want = "shell is /bin/sh"
			}
			if !strings.Contains(stdout, want) || result.GetExitCode() != 5 {
				t.Errorf("got %q, %v", stdout, result)
			}
		})
	}
}

func TestDial(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	defer listener.Close()
	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	loopback := newHost(t)

	t.Run("half-close", func(t *testing.T) {
		s := open(t, loopback, dialRequest(&edgeapi.Dial{Port: port}))
		w := s.Writer(edgeapi.Channel_STDIN)
		_, _ = io.WriteString(w, "ping")
		_ = w.Close()
		conn := <-accepted
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != "ping" {
			t.Errorf("got %q, %v", got, err)
		}
		_, _ = io.WriteString(conn, "pong")
		_ = conn.Close()
		if stdout, _, result := s.finish(); stdout != "pong" || result.GetReason() != "" {
			t.Errorf("got %q, %v", stdout, result)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		s := open(t, loopback, dialRequest(&edgeapi.Dial{Port: port}))
		conn := <-accepted
		s.Close()
		s.cancel()
		s.waitEnded()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("the connection is still there: %v", err)
		}
		_ = conn.Close()
	})
	t.Run("nobody listens", func(t *testing.T) {
		closed, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = closed.Close()
		got := open(t, loopback, dialRequest(&edgeapi.Dial{Port: uint32(closed.Addr().(*net.TCPAddr).Port)})).refused()
		if got.Reason != "ServiceUnavailable" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("port", func(t *testing.T) {
		for _, p := range []uint32{0, 65536} {
			if got := open(t, loopback, dialRequest(&edgeapi.Dial{Port: p})).refused(); got.Reason != "BadRequest" {
				t.Errorf("port %d gave %v", p, got)
			}
		}
	})
	t.Run("name", func(t *testing.T) {
		s := open(t, loopback, dialRequest(&edgeapi.Dial{Host: "localhost", Port: port}))
		conn := <-accepted
		_ = conn.Close()
		_ = s.Writer(edgeapi.Channel_STDIN).Close()
		s.finish()
	})
}

// TestDestinations checks that the address decides that a connection is really made to.
func TestDestinations(t *testing.T) {
	h := newHost(t, func(c *config.Configuration, _ *edgeapi.HostPolicy) {
		c.Policy.HostPortForward.AllowLoopback = ptr.To(false)
		c.Policy.HostPortForward.AllowedDestinations = []string{"10.0.0.0/8:80", "trusted.example:443", "0.0.0.0/0:9999"}
	})
	for _, tt := range []struct {
		host, addr string
		port       uint16
		ok         bool
	}{
		{"10.1.2.3", "10.1.2.3", 80, true},
		{"10.1.2.3", "10.1.2.3", 81, false},
		{"evil.example", "10.1.2.3", 80, true},
		{"evil.example", "192.168.0.1", 80, false},
		{"trusted.example", "192.168.0.1", 443, true},
		// A name that is allowed, or a network of everything, does not lead to the device itself.
		{"trusted.example", "127.0.0.1", 443, false},
		{"127.0.0.1", "127.0.0.1", 9999, false},
		{"0.0.0.0", "0.0.0.0", 9999, false},
		{"::1", "::1", 9999, false},
	} {
		err := h.demandDestination(tt.host, netip.MustParseAddr(tt.addr), tt.port)
		if (err == nil) != tt.ok {
			t.Errorf("%s (%s) port %d gave %v", tt.host, tt.addr, tt.port, err)
		}
	}
}

func TestJournal(t *testing.T) {
	h := newHost(t)
	for _, unit := range []string{"--file=/etc/shadow", "a*", "a b", "", "[a]", "../x/"} {
		if got := open(t, h, logRequest(&edgeapi.Log{Source: &edgeapi.Log_Unit{Unit: unit}})).refused(); got.Reason != "BadRequest" {
			t.Errorf("unit %q gave %v", unit, got)
		}
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	request := &edgeapi.Log{Source: &edgeapi.Log_Unit{Unit: "ssh.service"}, TailLines: 7, LimitBytes: -1, Timestamps: true, Follow: true, SinceNs: 1e18}
	if got := open(t, h, logRequest(request)).refused(); got.Reason != "BadRequest" || !strings.Contains(got.Message, "journalctl is not installed") {
		t.Errorf("without journalctl: %v", got)
	}
	journalctl := filepath.Join(bin, "journalctl")
	if err := os.WriteFile(journalctl, []byte("#!/bin/sh\nfor a in \"$@\"; do echo \"$a\"; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stdout, _, result := open(t, h, logRequest(request)).finish()
	want := "--no-pager\n--quiet\n--all\n--unit=ssh.service\n--output=short-iso-precise\n--lines=7\n--since=2001-09-09 01:46:40 UTC\n--follow\n"
	if stdout != want || result.GetReason() != "" {
		t.Errorf("got %q, %v", stdout, result)
	}
	request.LimitBytes = 5
	if stdout, _, result := open(t, h, logRequest(request)).finish(); stdout != "--no-" || result.GetReason() != "" {
		t.Errorf("got %q, %v", stdout, result)
	}
	if err := os.WriteFile(journalctl, []byte("#!/bin/sh\necho broken >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	request.LimitBytes = -1
	if _, _, result := open(t, h, logRequest(request)).finish(); result.GetReason() != "InternalError" || !strings.Contains(result.GetMessage(), "broken") {
		t.Errorf("got %v", result)
	}
}
