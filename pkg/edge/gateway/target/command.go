package target

import (
	"context"
	"fmt"
	"io"
	"sync"

	utilexec "k8s.io/utils/exec"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/pkg/streaming"
)

// Command is an exec or attach that has begun on a device. Either Run or Close must be called.
type Command struct {
	session gateway.Session
	stream  *stream.Stream
}

// Exec starts a command in a container, or on the host if container is nil.
func Exec(ctx context.Context, session gateway.Session, container *Container, command []string, opts streaming.Options) (*Command, error) {
	return start(ctx, session, container, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Exec{Exec: &edgeapi.Exec{
		Container: container.reference(session), Command: command,
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
	}}})
}

// Attach attaches to a running container, or to a login shell of the host if container is nil. Whether a container
// has a terminal was decided when it was created.
func Attach(ctx context.Context, session gateway.Session, container *Container, opts streaming.Options) (*Command, error) {
	if container != nil {
		opts.TTY = container.tty()
		opts.Stderr = opts.Stderr && !opts.TTY // a terminal has one output
	}
	return start(ctx, session, container, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Attach{Attach: &edgeapi.Attach{
		Container: container.reference(session),
		Stdin:     opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
	}}})
}

func start(ctx context.Context, session gateway.Session, container *Container, req *edgeapi.OpenStream) (*Command, error) {
	s, err := open(ctx, session, req)
	if err != nil {
		return nil, container.commandError(err)
	}
	return &Command{session: session, stream: s}, nil
}

// Close ends the command, if it still runs.
func (c *Command) Close() { c.stream.Close() }

// Run is the streaming.CommandFunc of the command: it carries its streams until it ends. What is
// left of the command is ended when ctx is.
func (c *Command) Run(ctx context.Context, streams streaming.IO) error {
	defer c.stream.Close()
	stop := context.AfterFunc(ctx, c.stream.Close)
	defer stop()

	if streams.Stdin != nil {
		c.send(streams.Stdin)
	}
	if streams.Resize != nil {
		go c.resize(streams.Resize)
	}
	var stderr sync.WaitGroup
	if streams.Stderr != nil {
		stderr.Go(func() { c.receive(edgeapi.Channel_STDERR, streams.Stderr) })
	} else {
		c.stream.Reader(edgeapi.Channel_STDERR).Close()
	}
	c.receive(edgeapi.Channel_STDOUT, streams.Stdout) // here, not in one more goroutine: sessions are many
	stderr.Wait()

	result, err := c.stream.Wait(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return broken(c.session, err)
	case result.GetReason() != "":
		return gateway.ResultError(c.session.Device(), result)
	case result.GetExitCode() != 0:
		code := int(result.GetExitCode())
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: code}
	}
	return nil
}

// send has stdin and its end carried to the device. It ends with the session: stdin with the client's
// connection, writing with the stream.
func (c *Command) send(stdin io.Reader) {
	w := c.stream.Writer(edgeapi.Channel_STDIN)
	streaming.Forward(w, stdin, func(error) {
		// An error means that one side is gone, which Run sees.
		_ = w.Close()
	})
}

func (c *Command) resize(sizes <-chan streaming.TerminalSize) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok || c.stream.Resize(size.Width, size.Height) != nil {
				return
			}
		case <-c.stream.Done():
			return
		}
	}
}

// receive carries an output of the command to the client. An output that the client does not take
// any more ends the command.
func (c *Command) receive(channel edgeapi.Channel, w io.Writer) {
	r := c.stream.Reader(channel)
	if w == nil {
		r.Close()
		return
	}
	if _, err := io.Copy(writer{w}, r); err != nil {
		c.stream.Close()
	}
}

// writer hides other methods, io.ReaderFrom in particular, which would buffer.
type writer struct{ io.Writer }
