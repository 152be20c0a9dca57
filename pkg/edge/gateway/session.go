package gateway

import (
	"context"
	"errors"
	"time"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Device identifies an EdgeDevice. The UID tells apart devices of one name over time.
type Device = identity.Device

// Session is the live link of one device. It is an interface because a device's link may be held by
// another replica. All methods may be called concurrently.
type Session interface {
	Device() Device
	// Hello is what the device said when it connected, without the node status once there is a newer one
	// (Info). Not to be modified.
	Hello() *edgeapi.Hello
	// Send queues a message for the device without blocking. It returns ErrBusy if the device's queue
	// is full and ErrClosed if the session is over; the caller tries again later, or leaves it to the
	// next session. ErrTooLarge says that the message can never be sent. The message must not be
	// modified afterwards.
	Send(msg *edgeapi.ServerMessage) error
	// OpenStream asks the device to open a stream and waits until it is there, or ctx ends. The caller must
	// close the stream. The id in req is set by OpenStream. Errors other than that of ctx are API statuses
	// (k8s.io/apimachinery/pkg/api/errors), fit for the user.
	OpenStream(ctx context.Context, req *edgeapi.OpenStream) (*stream.Stream, error)
	// Info is the current state of the link.
	Info() Info
	// Done is closed when the session is over.
	Done() <-chan struct{}
	// Close ends the session; the reason is told to the device.
	Close(reason error)
}

// Info is the state of a link at one moment.
type Info struct {
	// Method is "grpc", "websocket" or "mqtt".
	Method            string
	Since, LastSeen   time.Time
	RoundTrip         time.Duration // 0: not measured yet
	BytesIn, BytesOut int64         // as on the link, TLS included
	Traffic           traffic.Sums  // of BytesIn and BytesOut, by kind
	Streams           int32
	// Parked says that the device has no connection at the moment, but would come at once if it were asked to.
	Parked        bool
	RemoteAddress string
	Replica       string
	// CPUNanoCores and MemoryBytes are what the device used when it last answered a ping.
	CPUNanoCores, MemoryBytes uint64
	// DeviceTraffic is what the device has counted on its links since its agent started, as of its last answer
	// to a ping, in the order of links and kinds. Not to be modified.
	DeviceTraffic []*edgeapi.LinkTraffic
	// NodeStatus is the last one the device sent. Not to be modified.
	NodeStatus *edgeapi.NodeStatus
}

// Sessions finds the live links.
type Sessions interface {
	// Session returns the live link of a device, or false.
	Session(namespace, name string) (Session, bool)
}

// Handler is told what happens on the links. The calls for one session come in order, one after the
// other, but not all from one goroutine. Nothing more is read from that device until a call returns: a
// handler must be quick and never block on the device itself.
type Handler interface {
	// SessionStarted is called after Hello, before any other message of the session.
	SessionStarted(s Session)
	// DeviceMessage is called for each message that is not about the link itself, as Hello and Pong are.
	DeviceMessage(s Session, msg *edgeapi.DeviceMessage)
	// SessionEnded is called once, last. The reason is never nil.
	SessionEnded(s Session, reason error)
}

var (
	// ErrBusy says that a device's queue is full.
	ErrBusy = errors.New("the device's send queue is full")
	// ErrClosed says that a session is over.
	ErrClosed = errors.New("the session is closed")
	// ErrStopping is the reason of what ends because the replica stops. A device is not lost then: it dials
	// again, and reaches the next aranya. Wrapped in an error that names the replica.
	ErrStopping = errors.New("is shutting down")
	// ErrTooLarge says that a message is larger than a device accepts (edgeapi.MaxServerMessage).
	ErrTooLarge = errors.New("the message is larger than a device accepts")
)
