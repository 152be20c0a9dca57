package uplink

import (
	"context"
	"errors"
	"time"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Handler is told what comes over the link. Hello, Connected, Message and Disconnected are called one
// after the other; Disconnected follows every Connected.
type Handler interface {
	// Hello is what the device says about itself, asked for at each connect.
	Hello(ctx context.Context) *edgeapi.Hello
	// Connected says that the link is up. The context and send are valid until Disconnected.
	Connected(ctx context.Context, welcome *edgeapi.Welcome, send Sender)
	// Message is called for each message but Welcome, OpenStream, Ping and Renewal, in order. Nothing
	// more is read until it returns: it must be quick.
	Message(msg *edgeapi.ServerMessage)
	// Disconnected says that the link is down, and why.
	Disconnected(err error)
	// Stream serves one session, in a goroutine of its own, and must end it with s.Finish. The context
	// ends with the stream.
	Stream(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream)
	// Usage is what the whole device uses at the moment, 0 if not known. It must be quick.
	Usage() (cpuNanoCores, memoryBytes uint64)
}

// Sender sends messages to the server. It may be used concurrently.
type Sender interface {
	// Send blocks while the link is slower than the caller. It returns an error when ctx ends (the
	// message may have been sent then) or the link is down.
	Send(ctx context.Context, msg *edgeapi.DeviceMessage) error
}

// Config is what a Client needs.
type Config struct {
	// Server is the address of the gateway, host:port. Its name is looked up at each attempt.
	Server string
	// StateDir is where Join put the identity of the device.
	StateDir string
	// Handler is told what comes over the link.
	Handler Handler
	// Dialer is the transport. Default link.TCP{}.
	Dialer link.Dialer
	// MaxStreams is how many streams may be open at a time. Default 256.
	MaxStreams int
	// MaxBackoff is the longest pause between attempts to connect. Default 60 s. A device that the
	// server refuses waits up to ten times as long.
	MaxBackoff time.Duration
}

// Client keeps the device connected.
type Client struct{ Config }

// New reads the identity of the device.
func New(c Config) (*Client, error) { return nil, errSkeleton }

var errSkeleton = errors.New("skeleton")

// Device is who this device is.
func (c *Client) Device() identity.Device { return identity.Device{} }

// Run connects, and connects again, until ctx ends. It returns when all of its goroutines, streams
// included, have ended.
func (c *Client) Run(ctx context.Context) error { return errSkeleton }

// JoinOptions say how to enrol.
type JoinOptions struct {
	// Server is the address of the gateway, host:port.
	Server string
	// Token is the enrolment token. Without it Join succeeds only if the device is enrolled already.
	// A token that this device has already used is taken as such, so that a command line with a token
	// can be run again.
	Token string
	// StateDir is where the identity is kept.
	StateDir string
	// Dialer is the transport. Default link.TCP{}.
	Dialer link.Dialer
}

// Join enrols the device: it makes a key, exchanges the token for a certificate, and keeps both in
// the state directory.
func Join(ctx context.Context, o JoinOptions) error { return errSkeleton }

// ErrNotEnrolled says that there is no identity in the state directory.
var ErrNotEnrolled = errors.New("this device is not enrolled")
