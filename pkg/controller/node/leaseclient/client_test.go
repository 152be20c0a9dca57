package leaseclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server and returns a client of it.
func serve(t testing.TB, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that end before they begin
	server.StartTLS()
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{
		Host: server.URL, BearerToken: "secret", UserAgent: "tester",
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.transport) })
	return client
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "kube-node-lease", UID: "u", ResourceVersion: "7", Annotations: map[string]string{"others": "stay"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: "n"}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: ptr.To[int32](45), RenewTime: ptr.To(metav1.NewMicroTime(time.Unix(100, 5000)))},
	}
}

// echo answers with what it got, under another version and with managed fields.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	l, ok := object.(*coordinationv1.Lease)
	if err != nil || !ok {
		http.Error(w, fmt.Sprintf("got %T: %v", object, err), http.StatusBadRequest)
		return
	}
	l.ResourceVersion += "1"
	l.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: r.UserAgent()}}
	answer(w, http.StatusOK, l)
}

func answer(w http.ResponseWriter, code int, object runtime.Object) {
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	w.WriteHeader(code)
	_ = codec.Encode(object, w)
}

func TestUpdate(t *testing.T) {
	var request *http.Request
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		request = r
		echo(w, r)
	})
	for _, name := range []string{"a", "b"} {
		got, err := client.Update(t.Context(), lease(name))
		if err != nil {
			t.Fatal(err)
		}
		want := lease(name)
		want.ResourceVersion, want.ManagedFields = "71", []metav1.ManagedFieldsEntry{{Manager: "tester"}}
		got.TypeMeta = metav1.TypeMeta{}
		if !equal(t, got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if path := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/" + name; request.Method != http.MethodPut || request.URL.Path != path {
			t.Errorf("%s %s, want PUT %s", request.Method, request.URL.Path, path)
		}
		if request.ProtoMajor != 2 || request.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s with %v", request.Proto, request.Header)
		}
	}
}

// TestPath has the address of the API server end in what is usual.
func TestPath(t *testing.T) {
	var path string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		echo(w, r)
	}))
	t.Cleanup(server.Close)
	for _, base := range []string{"", "/", "/clusters/a", "/clusters/a/"} {
		client, err := New(&rest.Config{Host: server.URL + base})
		if err != nil {
			t.Fatal(err)
		}
		for name, update := range map[string]func() error{
			"typed": func() error {
				_, err := client.typed.Leases("kube-node-lease").Update(t.Context(), lease("n"), metav1.UpdateOptions{})
				return err
			},
			"lean": func() error {
				_, err := client.Update(t.Context(), lease("n"))
				return err
			},
		} {
			err := update()
			if want := strings.TrimRight(base, "/") + "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n"; err != nil || path != want {
				t.Errorf("%s, %q: %s, want %s, error %v", name, base, path, want, err)
			}
		}
		utilnet.CloseIdleConnectionsFor(client.transport)
	}
}

func equal(t *testing.T, a, b *coordinationv1.Lease) bool {
	t.Helper()
	x, errX := a.Marshal()
	y, errY := b.Marshal()
	if err := errors.Join(errX, errY); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// TestErrors holds the errors against those of the typed client.
func TestErrors(t *testing.T) {
	status := func(code int, reason metav1.StatusReason) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			answer(w, code, &metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "because",
			})
		}
	}
	text := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "just so", code) }
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		is      func(error) bool
	}{
		"conflict":            {status(http.StatusConflict, metav1.StatusReasonConflict), apierrors.IsConflict},
		"not found":           {status(http.StatusNotFound, metav1.StatusReasonNotFound), apierrors.IsNotFound},
		"too many, no time":   {status(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests), apierrors.IsTooManyRequests},
		"conflict in text":    {text(http.StatusConflict), apierrors.IsConflict},
		"not found in text":   {text(http.StatusNotFound), apierrors.IsNotFound},
		"broken in text":      {text(http.StatusInternalServerError), apierrors.IsInternalError},
		"unauthorized":        {text(http.StatusUnauthorized), apierrors.IsUnauthorized},
		"forbidden":           {status(http.StatusForbidden, metav1.StatusReasonForbidden), apierrors.IsForbidden},
		"unavailable in text": {text(http.StatusServiceUnavailable), apierrors.IsServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, test.handler)
			_, err := client.Update(t.Context(), lease("a"))
			_, typed := client.typed.Leases("kube-node-lease").Update(t.Context(), lease("a"), metav1.UpdateOptions{})
			if !test.is(err) || apierrors.ReasonForError(err) != apierrors.ReasonForError(typed) {
				t.Errorf("%v, the typed client says %v", err, typed)
			}
		})
	}
	t.Run("nonsense", func(t *testing.T) {
		client := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") })
		if got, err := client.Update(t.Context(), lease("a")); err == nil {
			t.Errorf("took it for %v", got)
		}
	})
}

func TestComeAgain(t *testing.T) {
	var requests atomic.Int32
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= 2 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		echo(w, r)
	})
	start := time.Now()
	got, err := client.Update(t.Context(), lease("a"))
	if err != nil || got.ResourceVersion != "71" {
		t.Fatalf("%v, %v", got, err)
	}
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("asked again too early, three times in %s", took)
	}
	requests.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Update(ctx, lease("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v after the caller has given up", err)
	}
}

// TestLostConnection has a request fail whose connection breaks, and the next one take another.
func TestLostConnection(t *testing.T) {
	var breaks atomic.Bool
	breaks.Store(true)
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if breaks.Swap(false) {
			panic(http.ErrAbortHandler)
		}
		echo(w, r)
	})
	if _, err := client.Update(t.Context(), lease("a")); err == nil {
		t.Error("a request without an answer succeeded")
	}
	if _, err := client.Update(t.Context(), lease("a")); err != nil {
		t.Error(err)
	}
}

// TestTogether has many Leases updated at once, each with its own answer.
func TestTogether(t *testing.T) {
	client := serve(t, echo)
	var running sync.WaitGroup
	for i := range 200 {
		running.Go(func() {
			l := lease(fmt.Sprintf("n%d", i))
			l.ResourceVersion = fmt.Sprint(i)
			got, err := client.Update(t.Context(), l)
			if err != nil || got.Name != l.Name || got.ResourceVersion != fmt.Sprint(i)+"1" {
				t.Errorf("%s: got %v, %v", l.Name, got, err)
			}
		})
	}
	running.Wait()
}

// BenchmarkUpdate compares the client with the typed one: allocations, those of the server included, and the
// process's time of 17 Leases that are due together.
func BenchmarkUpdate(b *testing.B) {
	client := serve(b, echo)
	typed := client.typed.Leases("kube-node-lease")
	for name, update := range map[string]func(context.Context, *coordinationv1.Lease) (*coordinationv1.Lease, error){
		"lean": client.Update,
		"typed": func(ctx context.Context, l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
			return typed.Update(ctx, l.DeepCopy(), metav1.UpdateOptions{})
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var running sync.WaitGroup
				for range 17 {
					running.Go(func() {
						if _, err := update(b.Context(), lease("a")); err != nil {
							b.Error(err)
						}
					})
				}
				running.Wait()
			}
		})
	}
}
