package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/pkg/edge/agent/footprint"
)

// killPatience is how long a shim waits for the container's last processes to die.
const killPatience = 10 * time.Second

// recordPeriod is how often a shim tries to record an end that it could not record.
const recordPeriod = 2 * time.Second

// shim is the state of a running shim.
type shim struct {
	spec      *Spec
	stdio     *stdio
	processes *processes
	main      int           // process id of the container's main process
	ended     chan struct{} // closed once the end is recorded, or could not be
	exit      Exit
	told      chan struct{} // has room for one word: that a client knows of the end

	connections sync.WaitGroup
	attached    chan struct{} // one slot per attached client
}

// runShim is the whole life of a shim. Errors before the process runs go to the runtime through
// fdReady; later ones to the shim's standard error, a file in the container's directory.
func runShim() error {
	ready := os.NewFile(fdReady, "ready")
	unix.CloseOnExec(fdDir)
	unix.CloseOnExec(fdReady)
	unix.CloseOnExec(fdLock)
	if len(os.Args) > 2 && os.Args[2] == probeArgument {
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	s, listener, main, err := prepare()
	if err != nil {
		reply := Ready{Error: err.Error()}
		return errors.Join(json.NewEncoder(ready).Encode(reply), ready.Close())
	}
	started := &Started{Identity: main.identity, At: time.Now()}
	if err := writeRecord(fdDir, fileStarted, started); err != nil {
		s.processes.killAll(killPatience)
		return errors.Join(json.NewEncoder(ready).Encode(Ready{Error: err.Error()}), ready.Close())
	}
	// The runtime may be gone by now; the container runs all the same.
	_ = json.NewEncoder(ready).Encode(Ready{Started: started})
	_ = ready.Close()

	go s.serve(listener)
	_ = footprint.Trim() // it mostly waits from now on
	result := <-main.done
	s.exit = Exit{Code: exitCode(result), At: time.Now()}
	s.processes.killAll(killPatience)
	s.stdio.finish()
	s.recordExit()
	_ = listener.Close()
	s.lastWords()
	return nil
}

// recordExit records the end. While there is no room for that, the shim keeps what it knows for the agent: it returns
// once the agent has asked, or has removed the container.
func (s *shim) recordExit() {
	err := writeRecord(fdDir, fileExit, &s.exit)
	close(s.ended)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for err != nil && !errors.Is(err, unix.ENOENT) {
		select {
		case <-s.told:
			return
		case <-time.After(recordPeriod):
			err = writeRecord(fdDir, fileExit, &s.exit)
		}
	}
}

// lastWords lets the connections answer before the process goes. Whoever misses the answer finds it
// in the record, so it does not wait for long.
func (s *shim) lastWords() {
	answered := make(chan struct{})
	go func() {
		s.connections.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(time.Second):
	}
}

func prepare() (*shim, *net.UnixListener, *process, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, nil, fmt.Errorf("cannot become the parent of orphans: %w", err)
	}
	// Caught and dropped, not ignored: the container would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	spec := &Spec{}
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 64<<20)).Decode(spec); err != nil {
		return nil, nil, nil, fmt.Errorf("cannot read what to run: %w", err)
	}
	if err := dropStdin(); err != nil {
		return nil, nil, nil, err
	}
	streams, err := newStdio(spec)
	if err != nil {
		return nil, nil, nil, err
	}
	listener, err := listen()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := setupMounts(spec); err != nil {
		return nil, nil, nil, err
	}
	s := &shim{spec: spec, stdio: streams, processes: newProcesses(spec), ended: make(chan struct{}), told: make(chan struct{}, 1), attached: make(chan struct{}, maxAttached)}
	main, err := s.processes.start(spec.Args, streams.files(), spec.TTY)
	if err != nil {
		return nil, nil, nil, err
	}
	streams.started()
	s.main = main.identity.PID
	return s, listener, main, nil
}

// dropStdin puts /dev/null in the place of the pipe, so that no other file becomes descriptor 0.
func dropStdin() error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/null: %w", err)
	}
	defer unix.Close(null)
	return unix.Dup3(null, 0, 0)
}

// listen opens the socket through the directory's descriptor, as the path may be longer than a
// socket address can be.
func listen() (*net.UnixListener, error) {
	if err := unix.Unlinkat(fdDir, fileSocket, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	unix.Umask(0o177)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: procFD(fdDir) + "/" + fileSocket, Net: "unixpacket"})
	unix.Umask(0o022)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", fileSocket, err)
	}
	return listener, nil
}
