package streaming

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/streaming/spdy"
)

func (s *Server) upgradeSPDYCommand(w http.ResponseWriter, r *http.Request, opts Options, run CommandFunc) (serve func()) {
	netConn, reader, protocol, err := openSPDY(w, r, criremotecommand.SupportedStreamingProtocols)
	if err != nil {
		klog.FromContext(r.Context()).V(2).Info("Could not upgrade to SPDY", "err", err)
		return nil
	}
	return func() { s.serveSPDYCommand(netConn, reader, protocol, r, opts, run) }
}

func (s *Server) serveSPDYCommand(netConn net.Conn, reader io.Reader, protocol string, r *http.Request, opts Options, run CommandFunc) {
	ctx := r.Context()
	streams := &commandStreams{kinds: commandStreamKinds(opts, protocol), opened: map[string]*spdy.Stream{}}
	conn := spdy.NewConn(netConn, reader, spdy.Config{IdleTimeout: s.config.IdleTimeout, MaxStreams: len(streams.kinds)}, streams.add)
	late := time.AfterFunc(s.config.StreamCreationTimeout, conn.Close)
	defer late.Stop()
	streams.ready = func(done func()) {
		defer done()
		late.Stop()
		streams.run(r, opts, protocol, run)
		conn.Close()
	}
	// The end of ctx ends the command, of which the client is still told.
	if err := conn.Serve(context.WithoutCancel(ctx)); err != nil {
		klog.FromContext(ctx).V(2).Info("An exec or attach session broke", "err", err)
	}
}

// commandStreamKinds are the streams that the client opens: those that it asked for, and that of the
// status. The size of the terminal came with the third version.
func commandStreamKinds(opts Options, protocol string) []string {
	kinds := []string{criremotecommand.StreamTypeError}
	resize := opts.TTY && protocol != criremotecommand.StreamProtocolV1Name && protocol != criremotecommand.StreamProtocolV2Name
	for kind, wanted := range map[string]bool{
		criremotecommand.StreamTypeStdin:  opts.Stdin,
		criremotecommand.StreamTypeStdout: opts.Stdout,
		criremotecommand.StreamTypeStderr: opts.Stderr,
		criremotecommand.StreamTypeResize: resize,
	} {
		if wanted {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// commandStreams are the streams of one exec or attach. They are collected by the goroutine that reads.
type commandStreams struct {
	kinds  []string
	opened map[string]*spdy.Stream
	ready  func(done func())
}

// add is the spdy.Handler. With the last stream the command begins.
func (c *commandStreams) add(stream *spdy.Stream) (run func(done func()), err error) {
	kind := stream.Headers().Get(criremotecommand.StreamType)
	if !slices.Contains(c.kinds, kind) || c.opened[kind] != nil {
		return nil, fmt.Errorf("stream type %q is unknown, was not asked for, or is there already", kind)
	}
	c.opened[kind] = stream
	if len(c.opened) < len(c.kinds) {
		return nil, nil
	}
	return c.ready, nil
}

// run runs the command, and tells the client how it ended.
func (c *commandStreams) run(r *http.Request, opts Options, protocol string, run CommandFunc) {
	ctx := r.Context()
	streams := IO{TTY: opts.TTY}
	// A nil stream must not become an interface that is not nil.
	if stdin := c.opened[criremotecommand.StreamTypeStdin]; stdin != nil {
		streams.Stdin = stdin
	}
	if stdout := c.opened[criremotecommand.StreamTypeStdout]; stdout != nil {
		streams.Stdout = stdout
	}
	if stderr := c.opened[criremotecommand.StreamTypeStderr]; stderr != nil {
		streams.Stderr = stderr
	}
	if resize := c.opened[criremotecommand.StreamTypeResize]; resize != nil {
		sizes := newSizes()
		streams.Resize = sizes.c
		go readSizes(resize, sizes) // it ends when the stream is finished
	}
	status := commandStatus(run(ctx, streams))
	asJSON := protocol == criremotecommand.StreamProtocolV4Name
	if err := writeStatus(c.opened[criremotecommand.StreamTypeError], asJSON, status); err != nil {
		klog.FromContext(ctx).V(4).Info("Could not report the end of a session to its client", "err", err)
	}
	for _, stream := range c.opened {
		finish(stream)
	}
}
