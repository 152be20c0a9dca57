// Package shim is the small process that stands between the agent and one container of the process
// runtime. It owns the container's standard streams, writes its log, keeps its mount namespace and
// records how it ended, so that containers outlive the agent. It also holds the agent's side of the
// conversation with a shim.
//
// A shim is the agent's own executable, started again. It is linked from the standard library, the
// system call package and a pseudo-terminal package only, and takes over in this package's init:
// packages are initialized in the order of their paths as far as their imports permit, so this
// happens before the large packages of the agent cost any memory.
package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Command is the first argument that turns the executable into a shim.
const Command = "process-shim"

// File descriptors that a shim inherits, beside its specification on standard input.
const (
	fdDir   = 3 // the container's directory
	fdReady = 4 // one Ready as JSON, then closed
	fdLock  = 5 // held as long as the shim lives, see Alive
)

// Files in the container's directory.
const (
	fileStarted = "started.json"
	fileExit    = "exit.json"
	fileSocket  = "shim.sock"
	fileLock    = "shim.lock"
	fileStderr  = "shim.log"
)

// MountMode says how a container gets its mounts.
type MountMode string

const (
	// MountNone leaves the container in the host's mount namespace.
	MountNone MountMode = ""
	// MountNamespace is for root that may mount: a mount namespace of its own.
	MountNamespace MountMode = "namespace"
	// MountUserNamespace is for other users: a mount namespace within a user namespace.
	MountUserNamespace MountMode = "user-namespace"
)

// Spec is what a shim runs. It reaches the shim through a pipe and is never written to disk: the
// environment and the arguments may hold secrets.
type Spec struct {
	ID        string
	Args      []string
	Env       []string
	Cwd       string
	TTY       bool
	Stdin     bool
	StdinOnce bool
	LogPath   string // empty: no log
	User      *User  // nil: as the shim
	Mode      MountMode
	Mounts    []Mount
	// Locks are mount points that are locked as long as the shim lives, see LockShared.
	Locks       []string
	OOMScoreAdj *int
	NoNewPrivs  bool
}

// User is whom a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// Mount is a bind mount.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// HostToContainer lets later mounts on the host below Source appear.
	HostToContainer bool
}

// Identity names a process over time: a process id alone may be in use again.
type Identity struct {
	PID int
	// StartTicks is when the process started, in clock ticks since the boot.
	StartTicks uint64
	BootID     string
}

// Started is recorded once the process runs.
type Started struct {
	Identity
	At time.Time
}

// Exit is recorded once the process has ended.
type Exit struct {
	Code    int32
	At      time.Time
	Reason  string `json:",omitempty"`
	Message string `json:",omitempty"`
}

// Ready is a shim's first word: the process runs, or why not.
type Ready struct {
	Started *Started
	Error   string
}

// Request is a message to a shim. One connection carries one request; an attach may be followed by
// resizes. The descriptors that Stdin, Stdout and Stderr announce travel with it, in this order.
type Request struct {
	Op     string
	Signal int      `json:",omitempty"`
	Args   []string `json:",omitempty"`
	TTY    bool     `json:",omitempty"`
	Stdin  bool     `json:",omitempty"`
	Stdout bool     `json:",omitempty"`
	Stderr bool     `json:",omitempty"`
	Width  uint16   `json:",omitempty"`
	Height uint16   `json:",omitempty"`
}

// Operations of a Request.
const (
	opWait   = "wait"   // answered when the container has ended
	opSignal = "signal" // to the container's process group
	opReopen = "reopen" // the log file
	opExec   = "exec"   // answered when the command has ended; closing the connection kills it
	opAttach = "attach" // answered at once, and by closing the connection at the end
	opResize = "resize" // within an attach, not answered
)

// Response answers a Request.
type Response struct {
	Error string `json:",omitempty"`
	// Code is the exit code of a command; At is when a container has ended, which older shims do not say.
	Code int32     `json:",omitempty"`
	At   time.Time `json:",omitzero"`
}

// maxMessage bounds one message in bytes; the argument vector of an exec is the largest.
const maxMessage = 128 << 10

// ReadStarted reads the record of the start from a container's directory. The error is
// fs.ErrNotExist if there is none.
func ReadStarted(dir string) (*Started, error) {
	s := &Started{}
	return s, readRecord(dir+"/"+fileStarted, s)
}

// ReadExit reads the record of the end.
func ReadExit(dir string) (*Exit, error) {
	e := &Exit{}
	return e, readRecord(dir+"/"+fileExit, e)
}

// WriteExit records the end of a container whose shim cannot do it any more.
func WriteExit(dir string, e *Exit) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeRecord(fd, fileExit, e)
}

func readRecord(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

// writeRecord writes a file of a directory so that it is there whole or not at all.
func writeRecord(dirfd int, name string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	temporary := "." + name
	fd, err := unix.Openat(dirfd, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), temporary)
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(dirfd, temporary, dirfd, name)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}
