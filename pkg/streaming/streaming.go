// Package streaming serves the exec, attach and port-forward HTTP protocols of Kubernetes (SPDY, and
// WebSocket including v5.channel.k8s.io and tunnelled port-forward) on behalf of a backend, given as
// a CommandFunc or a DialFunc. It knows nothing of devices, pods or authorization. Both the
// subresources of EdgeDevice and the kubelet endpoint use it.
package streaming

import (
	"context"
	"io"

	"k8s.io/client-go/tools/remotecommand"
)

// IO are the streams of one exec or attach. A nil stream was not asked for.
type IO struct {
	// Stdin ends with io.EOF when the client closes it, and with the session at the latest.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize delivers terminal sizes; it is closed when no more will come. Nil without TTY. Sizes
	// that nobody picked up in time are replaced by newer ones.
	Resize <-chan TerminalSize
}

// TerminalSize is a size in character cells.
type TerminalSize = remotecommand.TerminalSize

// CommandFunc runs an exec or attach session. It returns when the session is over, or soon after ctx
// ends; context.Cause(ctx) then says why. An exit code other than 0 is a
// k8s.io/utils/exec.CodeExitError.
type CommandFunc func(ctx context.Context, streams IO) error

// DialFunc opens a connection to a port for port-forward.
type DialFunc func(ctx context.Context, port uint16) (Conn, error)

// Conn is a byte stream with half-close.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Options say which streams of a command are wanted.
type Options struct {
	Stdin, Stdout, Stderr, TTY bool
}
