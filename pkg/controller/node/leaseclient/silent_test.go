package leaseclient

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// lines are connections within the process, made for a server that accepts them.
type lines struct {
	accepted chan net.Conn
	closed   chan struct{}
	close    func()
	made     []*line
}

func (l *lines) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *lines) Close() error { l.close(); return nil }

func (l *lines) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

func (l *lines) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	l.accepted <- there
	made := &line{Conn: here}
	l.made = append(l.made, made)
	return made, nil
}

// line is a connection that may go dead: what is sent gets lost, and nobody tells.
type line struct {
	net.Conn
	dead atomic.Bool
}

func (l *line) Write(p []byte) (int, error) {
	if l.dead.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

// serveLines is serve without a network, for the time of a bubble.
func serveLines(t *testing.T, handler http.HandlerFunc) (*Client, *lines) {
	t.Helper()
	l := &lines{accepted: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close()
	server.Listener, server.EnableHTTP2 = l, true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.Close()
		time.Sleep(receiveAfter) // until the client's connections have noticed
	})
	client, err := New(&rest.Config{Host: server.URL, Dial: l.dial, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.transport) })
	return client, l
}

// TestDeadConnection has an API server go without a word: a request ends in time, and the next one goes elsewhere.
func TestDeadConnection(t *testing.T) {
	for name, request := range map[string]func(context.Context, *Client) error{
		"update": func(ctx context.Context, c *Client) error {
			_, err := c.Update(ctx, lease("a"))
			return err
		},
		"get": func(ctx context.Context, c *Client) error {
			_, err := c.Leases("kube-node-lease").Get(ctx, "a", metav1.GetOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, lines := serveLines(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet {
						answer(w, http.StatusOK, lease("a"))
						return
					}
					echo(w, r)
				})
				if err := request(t.Context(), client); err != nil {
					t.Fatal(err)
				}
				lines.made[0].dead.Store(true)
				start := time.Now()
				if err := request(t.Context(), client); !utilnet.IsTimeout(err) || time.Since(start) != requestTimeout {
					t.Errorf("%v after %s", err, time.Since(start))
				}
				synctest.Wait()
				if err := request(t.Context(), client); err != nil || len(lines.made) != 2 {
					t.Errorf("%v, over %d connections", err, len(lines.made))
				}
			})
		})
	}
}

// TestSlowAnswer has an API server take too long for one request, and answer others: it keeps its connection.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		client, lines := serveLines(t, func(w http.ResponseWriter, r *http.Request) {
			if slow.Swap(false) {
				<-r.Context().Done()
				return
			}
			echo(w, r)
		})
		slow.Store(true)
		failed := make(chan error)
		go func() {
			_, err := client.Update(t.Context(), lease("a"))
			failed <- err
		}()
		time.Sleep(requestTimeout / 2)
		for range 2 {
			if _, err := client.Update(t.Context(), lease("b")); err != nil {
				t.Error(err)
			}
			if slow.Load() {
				t.Error("the first request came late")
			}
		}
		if err := <-failed; !utilnet.IsTimeout(err) {
			t.Errorf("the slow request: %v", err)
		}
		if _, err := client.Update(t.Context(), lease("b")); err != nil || len(lines.made) != 1 {
			t.Errorf("%v, over %d connections", err, len(lines.made))
		}
	})
}

// TestComeAgainMuchLater has an API server put requests off for longer than they may take.
func TestComeAgainMuchLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := serveLines(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "32")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
		})
		start := time.Now()
		_, err := client.Update(t.Context(), lease("a"))
		if took := time.Since(start); !apierrors.IsTooManyRequests(err) || took != requestTimeout {
			t.Errorf("%v after %s", err, took)
		}
	})
}
