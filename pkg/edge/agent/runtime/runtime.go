// Package runtime is the seam between the agent and what runs its containers: the CRI, plus the
// byte streams that CRI leaves to a URL. Implementations live in subpackages: cri (containerd,
// CRI-O) and process (host executables, in this process). Nothing here knows of pods beyond CRI's
// own words.
package runtime

import (
	"context"
	"io"

	internalapi "k8s.io/cri-api/pkg/apis"
)

// Runtime runs pods' sandboxes and containers. All methods may be called concurrently.
type Runtime interface {
	internalapi.RuntimeService
	internalapi.ImageManagerService
	Streamer
}

// TerminalSize is the size of a terminal in character cells.
type TerminalSize struct {
	Width, Height uint16
}

// IO are the streams of one exec or attach. A nil stream is not connected.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize delivers terminal sizes until it is closed. Only with TTY; may be nil.
	Resize <-chan TerminalSize
}

// Streamer connects byte streams to containers. The methods return when the session is over, or soon
// after the context ends.
type Streamer interface {
	// ExecStream runs a command in a container. A command that ran and exited with a code other than
	// 0 gives a k8s.io/utils/exec.ExitError.
	ExecStream(ctx context.Context, containerID string, command []string, streams IO) error
	// AttachStream attaches to the main process of a container.
	AttachStream(ctx context.Context, containerID string, streams IO) error
	// DialPod connects to a TCP port inside the pod's network, on its loopback. The connection's
	// CloseWrite half-closes it.
	DialPod(ctx context.Context, sandboxID string, port uint16) (Conn, error)
}

// Conn is a byte stream with half-close.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}
