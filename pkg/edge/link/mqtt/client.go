package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	gorilla "github.com/gorilla/websocket"

	"arhat.dev/aranya/pkg/edge/link/websocket"
)

const (
	qos = 1
	// subscribeFailed is the code in a SUBACK of a broker that refuses.
	subscribeFailed = 0x80
	// writeTime is how long a broker may take no bytes at all.
	writeTime = 10 * time.Second
	// pingTime is how long it may take to answer a PINGREQ, which goes behind the messages that wait already.
	pingTime = time.Minute
	// disconnectTime is how long leaving a broker may take, in milliseconds.
	disconnectTime = 500
)

var (
	errClosed   = errors.New("it was closed")
	errPeerGone = errors.New("the other end of the link is gone: the broker says that it lost it")
)

// client is one connection to a broker, which is never re-established.
type client struct {
	server   string
	paho     paho.Client
	counters counters
	network  net.Conn      // to the broker
	out      *gatherer     // what is written to it
	gate     chan struct{} // held while something is handed to the library

	// subscribing is held while a subscription is asked for or ended, so that the broker hears of them in order.
	subscribing sync.Mutex

	starting sync.Once
	started  chan struct{} // no message is handled before

	closing sync.Once
	done    chan struct{}
	err     error // set before done is closed

	leaving sync.Once // the library can do it once only
}

// connect connects and does the MQTT handshake. Messages are given to handle, one after the other, once
// start was called.
func connect(ctx context.Context, c BrokerConfig, will Will, handle func(paho.Message)) (*client, error) {
	cl := newClient(c.Server)
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if c.ClientID == "" {
		c.ClientID = "aranya" + strconv.FormatUint(rand.Uint64(), 36) // 23 letters and digits are safe with every broker
	}
	o := paho.NewClientOptions().
		AddBroker("tcp://"+c.Server). // what is dialled is up to dialBroker
		SetClientID(c.ClientID).SetUsername(c.Username).SetPassword(c.Password).
		SetCleanSession(!c.PersistentSession).SetKeepAlive(c.KeepAlive).
		SetProtocolVersion(4). // 3.1.1
		SetConnectTimeout(connectTime).SetWriteTimeout(writeTime).SetPingTimeout(pingTime).
		SetAutoReconnect(false).SetConnectRetry(false).
		SetOrderMatters(true).
		SetBinaryWill(will.Topic, will.Payload, will.QoS, will.Retain).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			select {
			case <-cl.started:
				handle(m)
			case <-cl.done:
			}
		}).
		SetConnectionLostHandler(func(_ paho.Client, err error) { cl.end(explainLost(err, c.ClientID)) }).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			conn, err := dialBroker(ctx, c)
			if err != nil {
				return nil, err
			}
			cl.out.Conn = conn
			cl.network = newGuard(cl.out, c.MaxPayload)
			return cl.network, nil
		})
	cl.paho = paho.NewClient(o)
	t := cl.paho.Connect()
	select {
	case <-t.Done():
	case <-ctx.Done():
		cl.paho.Disconnect(0) // once: at a certain moment the library waits for ever if it is told again
		<-t.Done()            // soon: the connection is bound to ctx
		return nil, fmt.Errorf("connecting to the MQTT broker %s: %w", c.Server, ctx.Err())
	}
	if err := t.Error(); err != nil {
		return nil, fmt.Errorf("connecting to the MQTT broker %s: %w", c.Server, explainConnect(err, cl.network != nil))
	}
	return cl, nil
}

func newClient(server string) *client {
	return &client{server: server, gate: make(chan struct{}, 1), started: make(chan struct{}), done: make(chan struct{}), out: newGatherer(nil)}
}

// explainConnect puts plain words in place of the library's, before or after the broker was dialled.
func explainConnect(err error, dialled bool) error {
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword):
		return errors.New("the broker refuses the user name or password")
	case errors.Is(err, packets.ErrorRefusedNotAuthorised):
		return errors.New("the broker says that this client is not authorized; check user name, password and client certificate")
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return errors.New("the broker refuses the client ID")
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return errors.New("the broker says that it is unavailable")
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return errors.New("the broker does not speak MQTT 3.1.1")
	}
	if both, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, packets.ErrorNetworkError) {
		all := both.Unwrap()
		err = all[len(all)-1] // what dialBroker or the network said
	}
	if dialled && isCut(err) {
		return errors.New("the broker closed the connection without an answer; perhaps it does not speak MQTT there, or expects TLS")
	}
	return err
}

// isCut says whether a connection ended without a word of MQTT, or of WebSocket.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || gorilla.IsCloseError(err, gorilla.CloseAbnormalClosure)
}

// explainLost says why a broker may have ended a connection, for which MQTT 3.1.1 has no words.
func explainLost(err error, clientID string) error {
	perhaps := fmt.Sprintf("perhaps because it stops, another client uses the client ID %q, or a message was larger than it allows: see its log", clientID)
	switch {
	case isCut(err):
		return fmt.Errorf("the broker closed the connection, %s", perhaps)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE): // there was something that it did not read
		return fmt.Errorf("the broker closed the connection, or something on the way to it did, %s (%w)", perhaps, err)
	}
	return err
}

// handshakeError is why TLS with the broker failed.
type handshakeError struct{ error }

func (e *handshakeError) Error() string { return "TLS with the broker: " + e.error.Error() }
func (e *handshakeError) Unwrap() error { return e.error }

// explainTLS tells that an error of a WebSocket is one of TLS, which the library does below it.
func explainTLS(err error) error {
	var (
		unverified *tls.CertificateVerificationError
		noTLS      tls.RecordHeaderError
		remote     *net.OpError // of an alert of the other end
	)
	if errors.As(err, &unverified) || errors.As(err, &noTLS) || errors.As(err, &remote) && remote.Op == "remote error" {
		return &handshakeError{err}
	}
	return err
}

// dialBroker makes the connection that MQTT packets go over. It ends with ctx only while the handshake
// of MQTT is under way: ctx is over after that.
func dialBroker(ctx context.Context, c BrokerConfig) (net.Conn, error) {
	if c.Transport == TransportWebSocket {
		u := url.URL{Scheme: "ws", Host: c.Server, Path: c.Path}
		if c.TLS != nil {
			u.Scheme = "wss"
		}
		conn, err := websocket.DialConn(ctx, u.String(), websocket.Options{TLS: c.TLS, Subprotocol: "mqtt", NetDial: c.dialPatient})
		return conn, explainTLS(err)
	}
	// MQTT has a keepalive of its own, whose pace the user chooses.
	raw, err := c.dialPatient(ctx, "tcp", c.Server)
	if err != nil || c.TLS == nil {
		return raw, err
	}
	config := c.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(c.Server)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &handshakeError{err}
	}
	return conn, nil
}

// start lets messages be handled. It may be called more than once.
func (cl *client) start() { cl.starting.Do(func() { close(cl.started) }) }

// await gives the broker a moment to take a message.
func (cl *client) await(t token) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-t.Done():
	case <-timer.C:
	case <-cl.done:
	}
}

// end says that the connection is over.
func (cl *client) end(err error) {
	cl.closing.Do(func() {
		cl.err = err
		close(cl.done)
	})
}

// disconnect leaves the broker, which then publishes no will. It may be called again.
func (cl *client) disconnect() {
	cl.end(errClosed)
	cl.leaving.Do(func() { cl.paho.Disconnect(disconnectTime) })
}

// name implements publisher.
func (cl *client) name() string { return cl.server }

// publish implements publisher. It waits while the link to the broker is busy with what came before, for as long as
// that makes progress. The library would give up after writeTime, so it is handed nothing that it cannot pass on.
func (cl *client) publish(topic string, payload []byte) token {
	select {
	case cl.gate <- struct{}{}:
	case <-cl.done:
		return failedToken{cl.err}
	}
	defer func() { <-cl.gate }()
	cl.out.room()
	return cl.paho.Publish(topic, qos, false, payload)
}

// failedToken is the token of a payload that was not published.
type failedToken struct{ err error }

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (failedToken) Done() <-chan struct{} { return closedChan }
func (t failedToken) Error() error        { return t.err }

// lost is the error of everything that needs the connection once it is over.
func (cl *client) lost() error { return brokerLost(cl.server, cl.err) }

// subscribe subscribes to a topic.
func (cl *client) subscribe(ctx context.Context, topic string) error {
	cl.subscribing.Lock()
	t := cl.paho.Subscribe(topic, qos, nil)
	cl.subscribing.Unlock()
	select {
	case <-t.Done():
	case <-ctx.Done():
		return fmt.Errorf("subscribing to %q at the MQTT broker %s: %w", topic, cl.server, ctx.Err())
	case <-cl.done:
		return cl.lost()
	}
	if s, ok := t.(*paho.SubscribeToken); ok && s.Result()[topic] == subscribeFailed {
		return fmt.Errorf("the MQTT broker %s does not let this client subscribe to %q: check its ACL", cl.server, topic)
	}
	if err := t.Error(); err != nil {
		return fmt.Errorf("subscribing to %q at the MQTT broker %s: %w", topic, cl.server, err)
	}
	return nil
}

// unsubscribe ends a subscription, if nobody needs it again meanwhile.
func (cl *client) unsubscribe(topic string, needed func() bool) {
	cl.subscribing.Lock()
	if needed() || isLost(cl) {
		cl.subscribing.Unlock()
		return
	}
	t := cl.paho.Unsubscribe(topic)
	cl.subscribing.Unlock()
	cl.await(t)
}
