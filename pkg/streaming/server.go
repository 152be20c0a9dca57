package streaming

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The kubelet's own limits (streamingConnectionIdleTimeout and DefaultStreamCreationTimeout).
const (
	defaultIdleTimeout           = 4 * time.Hour
	defaultStreamCreationTimeout = 30 * time.Second
	// defaultUpgradeTimeout leaves the time for a link that is slow and busy.
	defaultUpgradeTimeout = time.Minute
	// defaultMaxConnections is how many streams a device takes by default.
	defaultMaxConnections = 256
)

var (
	errClientGone  = errors.New("the client has disconnected or was idle for too long")
	errSessionOver = errors.New("the session is over")
)

// Config configures a Server. The zero value is good.
type Config struct {
	// IdleTimeout ends a session in which nothing was sent either way for this long. 4 h if 0.
	IdleTimeout time.Duration
	// StreamCreationTimeout is how long a client may take to open the streams that it asked for.
	// 30 s if 0.
	StreamCreationTimeout time.Duration
	// UpgradeTimeout is how long the handler of a request that Track was called for may take to upgrade it.
	// 1 min if 0.
	UpgradeTimeout time.Duration
	// MaxConnections is how many connections one port-forward session may hold open at a time. 256
	// if 0.
	MaxConnections int

	halfCloseTimeout time.Duration // shorter in tests
}

// Server serves streaming sessions and knows all that are open. They live on hijacked connections,
// which the HTTP server neither tracks nor closes; Shutdown does. Its methods may be called
// concurrently.
type Server struct {
	config Config

	mu       sync.Mutex
	sessions map[*session]struct{}
	// closing is why no more sessions are accepted; nil while they are.
	closing error
	wg      sync.WaitGroup
}

// NewServer returns a Server without sessions.
func NewServer(config Config) *Server {
	if config.IdleTimeout <= 0 {
		config.IdleTimeout = defaultIdleTimeout
	}
	if config.StreamCreationTimeout <= 0 {
		config.StreamCreationTimeout = defaultStreamCreationTimeout
	}
	if config.UpgradeTimeout <= 0 {
		config.UpgradeTimeout = defaultUpgradeTimeout
	}
	if config.MaxConnections <= 0 {
		config.MaxConnections = defaultMaxConnections
	}
	if config.halfCloseTimeout <= 0 {
		config.halfCloseTimeout = defaultHalfCloseTimeout
	}
	return &Server{config: config, sessions: map[*session]struct{}{}}
}

// Shutdown refuses new sessions and ends the open ones. Their clients are told the reason where the
// protocol has room for it. It returns when all sessions are over; when ctx ends before, it cuts the
// remaining connections and returns the error of ctx.
func (s *Server) Shutdown(ctx context.Context, reason error) error {
	s.mu.Lock()
	s.closing = reason
	for session := range s.sessions {
		session.cancel(reason)
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for session := range s.sessions {
		session.abort()
	}
	s.mu.Unlock()
	return ctx.Err()
}

// Track makes a request that another handler is going to upgrade and hijack one of the server's
// sessions. The handler must use the writer and the request that Track returns; the request's
// context ends with the session, and the connection with the context. The context also ends if the
// connection is not hijacked in time, with an API status that says so as its cause. The caller must
// call done when the handler has returned.
func (s *Server) Track(w http.ResponseWriter, r *http.Request) (tw http.ResponseWriter, tr *http.Request, done func(), err error) {
	session, err := s.begin(r)
	if err != nil {
		return nil, nil, nil, err
	}
	stop := context.AfterFunc(session.ctx, session.abort)
	timeout := s.config.UpgradeTimeout
	timer := time.AfterFunc(timeout, func() {
		session.cancel(apierrors.NewTimeoutError(fmt.Sprintf("the connection was not upgraded within %v", timeout), 0))
	})
	return &trackedWriter{ResponseWriter: w, session: session, timer: timer}, r.WithContext(session.ctx), func() {
		timer.Stop()
		stop()
		session.end()
	}, nil
}

// available returns an API status if the server is shutting down.
func (s *Server) available() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing != nil {
		return apierrors.NewServiceUnavailable(s.closing.Error())
	}
	return nil
}

func (s *Server) begin(r *http.Request) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing != nil {
		return nil, apierrors.NewServiceUnavailable(s.closing.Error())
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	session := &session{server: s, ctx: ctx, cancel: cancel}
	s.sessions[session] = struct{}{}
	s.wg.Add(1)
	return session, nil
}
