package shim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/pkg/edge/agent/drain"
	"arhat.dev/aranya/pkg/edge/agent/tty"
)

// slowReader is how long an attached client may hold up the container's output before it is cut off.
const slowReader = 10 * time.Second

// inputTurn is how long a client waits at a time for a process that does not read its input.
const inputTurn = time.Second

// stdio are the standard streams of the container's main process.
type stdio struct {
	spec *Spec
	log  *logFile // nil without a log
	tty  *os.File // the terminal's master, with a terminal

	stdinMu sync.Mutex
	stdin   *os.File // nil without, or once closed

	child []int // descriptors for the process, closed by started

	mu      sync.Mutex
	sinks   map[*sink]struct{}
	ended   bool
	readers sync.WaitGroup
	sources []*drain.Reader
}

// sink is the output of one attached client.
type sink struct {
	stdout, stderr *os.File
}

// newStdio opens the log and what the process is connected to.
func newStdio(spec *Spec) (*stdio, error) {
	s := &stdio{spec: spec, sinks: map[*sink]struct{}{}}
	if spec.LogPath != "" {
		log, err := openLog(spec.LogPath)
		if err != nil {
			return nil, fmt.Errorf("cannot open the log of the container: %w", err)
		}
		s.log = log
	}
	if spec.TTY {
		return s, s.openTerminal()
	}
	return s, s.openPipes()
}

func (s *stdio) openTerminal() error {
	master, fd, err := tty.Open()
	if err != nil {
		return err
	}
	if err := s.spec.handOver(fd); err != nil {
		return err
	}
	s.child = []int{fd, fd, fd}
	s.tty = master
	if s.spec.Stdin {
		s.stdin = master
	}
	s.sources = []*drain.Reader{drain.NewReader(master, drain.Patience)}
	return nil
}

func (s *stdio) openPipes() error {
	var stdin int
	if s.spec.Stdin {
		read, write, err := Pipe(true)
		if err != nil {
			return err
		}
		stdin, s.stdin = read, write
	} else {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot open /dev/null: %w", err)
		}
		stdin = fd
	}
	s.child = []int{stdin}
	for range 2 {
		write, read, err := Pipe(false)
		if err != nil {
			return err
		}
		s.child = append(s.child, write)
		s.sources = append(s.sources, drain.NewReader(read, drain.Patience))
	}
	if !s.spec.Stdin {
		return s.spec.handOver(s.child[1:]...) // /dev/null is everybody's
	}
	return s.spec.handOver(s.child...)
}

// handOver gives pipes and terminals to the container's user, who may open them again by name, as
// /dev/stderr for example.
func (s *Spec) handOver(fds ...int) error {
	if s.User == nil {
		return nil
	}
	for _, fd := range fds {
		if err := unix.Fchown(fd, int(s.User.UID), int(s.User.GID)); err != nil {
			return fmt.Errorf("cannot hand the standard streams to user %d: %w", s.User.UID, err)
		}
	}
	return nil
}

// Pipe makes a pipe of which one end, a bare descriptor in blocking mode, is for another process.
// That one reads if childReads is set.
func Pipe(childReads bool) (child int, ours *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	child, other := fds[1], fds[0]
	if childReads {
		child, other = fds[0], fds[1]
	}
	// Only a descriptor in non-blocking mode has deadlines and can be closed under a reader.
	if err := unix.SetNonblock(other, true); err != nil {
		_, _ = unix.Close(child), unix.Close(other)
		return -1, nil, err
	}
	return child, os.NewFile(uintptr(other), "pipe"), nil
}

func (s *stdio) files() (files []uintptr) {
	for _, fd := range s.child {
		files = append(files, uintptr(fd))
	}
	return files
}

// started closes what the process has now, and begins to read its output.
func (s *stdio) started() {
	closed := map[int]bool{}
	for _, fd := range s.child {
		if !closed[fd] {
			closed[fd] = true
			_ = unix.Close(fd)
		}
	}
	names := []string{"stdout", "stderr"}
	for i, source := range s.sources {
		s.readers.Go(func() { s.read(source, names[i]) })
	}
}

func (s *stdio) read(source io.Reader, name string) {
	var logger *lineLogger
	if s.log != nil {
		logger = &lineLogger{log: s.log, stream: name, now: time.Now}
		defer logger.flush()
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := source.Read(buffer)
		if n > 0 {
			if logger != nil {
				_, _ = logger.Write(buffer[:n])
			}
			s.fanOut(buffer[:n], name)
		}
		if err != nil { // EOF, or EIO from a terminal whose last process has ended
			return
		}
	}
}

func (s *stdio) fanOut(p []byte, name string) {
	s.mu.Lock()
	clients := slices.Collect(maps.Keys(s.sinks))
	s.mu.Unlock()
	for _, c := range clients {
		f := c.stdout
		if name == "stderr" {
			f = c.stderr
		}
		if f == nil {
			continue
		}
		_ = f.SetWriteDeadline(time.Now().Add(slowReader))
		if _, err := f.Write(p); err != nil {
			s.detach(c)
		}
	}
}

// attach adds a client; false if the process has ended.
func (s *stdio) attach(c *sink) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.sinks[c] = struct{}{}
	return true
}

func (s *stdio) detach(c *sink) {
	s.mu.Lock()
	_, attached := s.sinks[c]
	delete(s.sinks, c)
	s.mu.Unlock()
	if attached {
		c.close()
	}
}

func (c *sink) close() {
	for _, f := range []*os.File{c.stdout, c.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// feed copies a client's input to the process, and closes it afterwards if that was asked for. It ends with the
// client too.
func (s *stdio) feed(from io.Reader, gone <-chan struct{}) {
	s.stdinMu.Lock()
	stdin := s.stdin
	s.stdinMu.Unlock()
	if stdin == nil {
		return
	}
	_, _ = io.Copy(&input{file: stdin, gone: gone}, from)
	if s.spec.StdinOnce && !s.spec.TTY {
		s.stdinMu.Lock()
		defer s.stdinMu.Unlock()
		if s.stdin != nil {
			_ = s.stdin.Close()
			s.stdin = nil
		}
	}
}

// input is what a client writes to. Once the client is gone, a write ends though the process reads nothing.
type input struct {
	file *os.File
	gone <-chan struct{}
}

// Write waits in turns: clients share the file, with its deadline, and one that blocks would keep the others out.
func (i *input) Write(p []byte) (n int, err error) {
	for {
		_ = i.file.SetWriteDeadline(time.Now().Add(inputTurn))
		wrote, err := i.file.Write(p[n:])
		n += wrote
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		select {
		case <-i.gone:
			return n, os.ErrClosed
		default:
		}
	}
}

func (s *stdio) resize(width, height uint16) {
	if s.tty != nil {
		_ = tty.Resize(s.tty, width, height)
	}
}

// finish reads what is left of the output. Every process of the container is dead by now, but a
// process outside may hold the other end, so it does not wait for ever.
func (s *stdio) finish() {
	for _, source := range s.sources {
		source.End()
	}
	s.readers.Wait()
	s.mu.Lock()
	s.ended = true
	clients := s.sinks
	s.sinks = map[*sink]struct{}{}
	s.mu.Unlock()
	for c := range clients {
		c.close()
	}
	if s.log != nil {
		_ = s.log.close()
	}
}
