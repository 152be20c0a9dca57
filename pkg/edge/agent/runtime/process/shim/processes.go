package shim

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errEnded answers who comes too late.
var errEnded = errors.New("the container has ended")

// processes starts the processes of a container and collects all that end, the orphans too that the
// shim inherits as their subreaper.
type processes struct {
	spec *Spec

	mu      sync.Mutex
	waiters map[int]chan syscall.WaitStatus
	ended   bool // nothing is started any more

	spawn chan spawnRequest
}

type spawnRequest struct {
	args  []string
	files []uintptr // standard streams
	tty   bool
	reply chan spawnReply
}

type spawnReply struct {
	process *process
	err     error
}

// process is a started process that is a child of the shim.
type process struct {
	identity Identity
	done     <-chan syscall.WaitStatus
}

// newProcesses starts the two goroutines, which live as long as the shim.
func newProcesses(spec *Spec) *processes {
	p := &processes{spec: spec, waiters: map[int]chan syscall.WaitStatus{}, spawn: make(chan spawnRequest)}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			p.reap()
		}
	}()
	ready := make(chan error)
	go p.spawnLoop(ready)
	if err := <-ready; err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return p
}

// reap collects every child that has ended.
func (p *processes) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if done, ok := p.waiters[pid]; ok {
			delete(p.waiters, pid)
			done <- status
		}
	}
}

// spawnLoop forks from one thread that gave up what the container must not have; a child inherits
// from the thread that forks it.
func (p *processes) spawnLoop(ready chan<- error) {
	runtime.LockOSThread()
	var errs []error
	if p.spec.Mode == MountUserNamespace {
		errs = append(errs, unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
	}
	if p.spec.NoNewPrivs {
		errs = append(errs, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	}
	ready <- errors.Join(errs...)
	for r := range p.spawn {
		r.reply <- p.fork(r)
	}
}

// start runs a command with the container's environment, directory and user. The files are the
// caller's to close.
func (p *processes) start(args []string, files []uintptr, tty bool) (*process, error) {
	r := spawnRequest{args: args, files: files, tty: tty, reply: make(chan spawnReply)}
	p.spawn <- r
	reply := <-r.reply
	return reply.process, reply.err
}

func (p *processes) fork(r spawnRequest) spawnReply {
	path, err := p.lookPath(r.args[0])
	if err != nil {
		return spawnReply{err: err}
	}
	attributes := &syscall.ProcAttr{
		Dir:   p.spec.Cwd,
		Env:   p.spec.Env,
		Files: r.files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: r.tty},
	}
	if u := p.spec.User; u != nil {
		attributes.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return spawnReply{err: errEnded}
	}
	pid, err := p.forkExec(path, r.args, attributes)
	if err != nil {
		return spawnReply{err: p.explainFork(r.args[0], path, err)}
	}
	done := make(chan syscall.WaitStatus, 1)
	p.waiters[pid] = done
	// Under the lock, because a process that is reaped has no identity any more.
	identity, err := Identify(pid)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return spawnReply{err: fmt.Errorf("cannot read the state of a process: %w", err)}
	}
	return spawnReply{process: &process{identity: identity, done: done}}
}

// forkExec starts a process that inherits the container's OOM score. With the same one the kernel would rather kill the
// shim, which is larger than a small program, and the log and the exit code would be lost. So it keeps its own if that
// protects it better, to which a process without rights may return too. Only root may have a lower one than before.
func (p *processes) forkExec(path string, args []string, attributes *syscall.ProcAttr) (int, error) {
	if p.spec.OOMScoreAdj != nil {
		const file = "/proc/self/oom_score_adj"
		own, err := os.ReadFile(file)
		_ = os.WriteFile(file, strconv.AppendInt(nil, int64(*p.spec.OOMScoreAdj), 10), 0)
		if score, parseErr := strconv.Atoi(strings.TrimSpace(string(own))); err == nil && parseErr == nil && score < *p.spec.OOMScoreAdj {
			defer func() { _ = os.WriteFile(file, own, 0) }()
		}
	}
	return syscall.ForkExec(path, args, attributes)
}

// explainFork finds out what an error number of the child was about.
func (p *processes) explainFork(name, path string, err error) error {
	if info, statErr := os.Stat(p.spec.Cwd); statErr != nil || !info.IsDir() {
		return fmt.Errorf("the working directory %q does not exist or is not a directory", p.spec.Cwd)
	}
	if errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("%q cannot be executed: its interpreter does not exist", path)
	}
	return fmt.Errorf("exec: %q: %w", name, err)
}

// lookPath finds an executable as execvp would in the container's environment.
func (p *processes) lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.spec.Cwd, name)
		}
		return path, checkExecutable(name, path)
	}
	var search string
	for _, e := range p.spec.Env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			search = value
		}
	}
	var denied error
	for _, dir := range filepath.SplitList(search) {
		if dir == "" {
			dir = "."
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(p.spec.Cwd, dir)
		}
		path := filepath.Join(dir, name)
		err := checkExecutable(name, path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, syscall.ENOENT) {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}

func checkExecutable(name, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil && os.IsPermission(err):
		return fmt.Errorf("exec: %q: %w", name, syscall.EACCES)
	case err != nil:
		return fmt.Errorf("exec: %q: %w", name, syscall.ENOENT)
	case info.IsDir():
		return fmt.Errorf("exec: %q: %w", name, syscall.EISDIR)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("exec: %q: %w", name, syscall.EACCES)
	}
	return nil
}

// killAll kills every descendant, after it has seen to it that none is started any more. As the shim is
// the subreaper, those whose parents ended have become its children; the loop ends when there is no
// child left, or with the patience for one that the kernel cannot end.
func (p *processes) killAll(patience time.Duration) {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		p.mu.Lock()
		children, _, err := killChildren(os.Getpid())
		p.mu.Unlock()
		if err == nil && children == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
		p.reap()
	}
}

// killChildren kills the children of a process that collects none of them meanwhile, so that their ids are
// theirs. It tells how many there are, and how many of these had not ended.
func killChildren(parent int) (children, running int, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		s, err := ReadStat(pid)
		if err != nil || s.PPID != parent {
			continue
		}
		children++
		if s.State != 'Z' {
			running++
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return children, running, nil
}

// exitCode is a wait status in the way of a shell.
func exitCode(status syscall.WaitStatus) int32 {
	if status.Signaled() {
		return 128 + int32(status.Signal())
	}
	return int32(status.ExitStatus())
}
