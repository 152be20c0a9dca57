package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	pidFile    = "containerd.pid"
	bridgeFile = "bridge"
	// pluginDir is where Debian's containernetworking-plugins live.
	pluginDir = "/usr/lib/cni"
	// startTimeout bounds how long containerd may take to answer on its socket.
	startTimeout = 30 * time.Second
	// maxSocketPath is what fits into a Unix socket address with containerd's own suffix ".ttrpc".
	maxSocketPath = 100
)

// DefaultSubnet is that of the pods' bridge.
const DefaultSubnet = "10.88.0.0/16"

// Options say how to run a containerd.
type Options struct {
	// Dir holds everything: config, root, state, socket, log. Created if missing; keep it short, as
	// the socket's path is limited to about 100 bytes.
	Dir string
	// Subnet of the pods' bridge. Defaults to DefaultSubnet; choose another one for each containerd
	// in one network namespace.
	Subnet string
	// Command builds the command that runs containerd; a caller may wrap it, for example to enter a
	// network namespace with "ip netns exec". Defaults to exec.Command.
	Command func(name string, args ...string) *exec.Cmd
}

// Server is a running containerd.
type Server struct {
	opts Options
}

// Check returns nil if containerd can be run on this machine by this user, otherwise what is missing.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root")
	}
	for _, name := range []string{"containerd", "runc", "ctr"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not installed: apt-get install containerd runc", name)
		}
	}
	if _, err := os.Stat(filepath.Join(pluginDir, "bridge")); err != nil {
		return errors.New("no CNI plugins in " + pluginDir + ": apt-get install containernetworking-plugins")
	}
	for _, path := range busyboxPaths {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	return errors.New("no busybox: apt-get install busybox-static")
}

// sandboxImage is the name of the image of the pods' sandboxes.
const sandboxImage = "test.local/pause:1"

// Start runs a containerd in the background, waits until it answers, and imports sandboxImage and the
// images given. It goes on when the calling process ends; see Stop. A directory where one ran before
// is taken over, with its containers.
func Start(ctx context.Context, opts Options, images ...Image) (*Server, error) {
	s, _, err := Prepare(opts)
	if err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	if err := s.ImportAll(ctx, images...); err != nil {
		return nil, errors.Join(err, Stop(opts.Dir))
	}
	return s, nil
}

// Prepare writes the configuration of a containerd that the caller runs itself, for example under a
// supervisor, and returns the command line for that. See WaitReady and ImportAll for what follows.
func Prepare(opts Options) (*Server, []string, error) {
	s := &Server{opts: opts}
	if len(s.socket()) > maxSocketPath {
		return nil, nil, fmt.Errorf("the path %s is too long for a Unix socket: choose a shorter directory", s.socket())
	}
	if s.opts.Command == nil {
		s.opts.Command = exec.Command
	}
	if s.opts.Subnet == "" {
		s.opts.Subnet = DefaultSubnet
	}
	if err := s.writeConfig(); err != nil {
		return nil, nil, err
	}
	return s, []string{"containerd", "--config", filepath.Join(opts.Dir, "config.toml")}, nil
}

// WaitReady waits until containerd answers.
func (s *Server) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !s.answers(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer at %s: %w", s.socket(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// ImportAll makes sandboxImage and the images given known to the runtime.
func (s *Server) ImportAll(ctx context.Context, images ...Image) error {
	pause, err := Busybox(sandboxImage)
	if err != nil {
		return err
	}
	pause.Cmd = []string{"/bin/sleep", "2147483647"}
	return s.Import(ctx, append([]Image{pause}, images...)...)
}

// Endpoint is the CRI endpoint, as an agent is configured with.
func (s *Server) Endpoint() string { return "unix://" + s.socket() }

func (s *Server) socket() string { return filepath.Join(s.opts.Dir, "containerd.sock") }

// Import makes images known to the runtime.
func (s *Server) Import(ctx context.Context, images ...Image) error {
	for _, image := range images {
		cmd := exec.CommandContext(ctx, "ctr", "-a", s.socket(), "-n", "k8s.io", "images", "import", "--no-unpack=false", "-")
		pr, pw := io.Pipe()
		cmd.Stdin = pr
		go func() {
			_, err := image.WriteTo(pw)
			pw.CloseWithError(err)
		}()
		out, err := cmd.CombinedOutput()
		pr.Close()
		if err != nil {
			return fmt.Errorf("import image %s: %w: %s", image.Name, err, out)
		}
	}
	return nil
}

// Kill ends containerd with SIGKILL, as a crash would. Containers go on.
func (s *Server) Kill() error { return killServer(s.opts.Dir) }

// Restart starts containerd again after Kill, and waits until it answers.
func (s *Server) Restart(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.opts.Dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.opts.Command("containerd", "--config", filepath.Join(s.opts.Dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := os.WriteFile(filepath.Join(s.opts.Dir, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if s.answers(ctx) {
			return nil
		}
		select {
		case err := <-exited:
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("containerd ended at once, see %s: %w", log.Name(), err)
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer, see %s: %w", log.Name(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) answers(ctx context.Context) bool {
	conn, err := net.Dial("unix", s.socket())
	if err != nil {
		return false
	}
	conn.Close()
	return exec.CommandContext(ctx, "ctr", "-a", s.socket(), "--timeout", "5s", "-n", "k8s.io", "containers", "list", "-q").Run() == nil
}

// Stop ends the containerd, see the function Stop.
func (s *Server) Stop() error { return Stop(s.opts.Dir) }

func killServer(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, pidFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, pidFile), err)
	}
	if args, _ := cmdline(pid); !slices.Contains(args, filepath.Join(dir, "config.toml")) {
		return os.Remove(filepath.Join(dir, pidFile))
	}
	if err := endProcess(pid); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, pidFile))
}
