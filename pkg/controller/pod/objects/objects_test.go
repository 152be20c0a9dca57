package objects

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	configMap = resolve.Reference{Namespace: "ns", Name: "cm"}
	secret    = resolve.Reference{Secret: true, Namespace: "ns", Name: "s"}
)

type harness struct {
	*Manager[string]
	t      *testing.T
	ctx    context.Context
	client *fake.Clientset

	mu   sync.Mutex
	told []string
}

func start(t *testing.T, limit int, objects ...runtime.Object) *harness {
	_, ctx := ktesting.NewTestContext(t)
	h := &harness{t: t, ctx: ctx, client: fake.NewClientset(objects...)}
	h.Manager = New(ctx, h.client, limit, func(users []string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told = append(h.told, users...)
	})
	t.Cleanup(h.Close)
	return h
}

func (h *harness) eventually(what string, holds func() bool) {
	h.t.Helper()
	eventually.Holds(h.t, what, holds)
}

func (h *harness) wasTold(user string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.told, user)
}

// inUse counts the objects that somebody uses.
func (h *harness) inUse() int {
	h.Manager.mu.Lock()
	defer h.Manager.mu.Unlock()
	return len(h.items)
}

// watches counts the watch requests for ConfigMaps.
func (h *harness) watches() int {
	n := 0
	for _, a := range h.client.Actions() {
		if a.Matches("watch", "configmaps") {
			n++
		}
	}
	return n
}

func cm(value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}}},
		Data:       map[string]string{"k": value},
	}
}

func TestSharedUntilReleased(t *testing.T) {
	h := start(t, 10, cm("1"))
	if _, err := h.ConfigMap("ns", "cm"); err == nil || errors.Is(err, resolve.ErrPending) {
		t.Errorf("an object that nobody uses: %v", err)
	}
	h.Use("p1", sets.New(configMap))
	h.Use("p2", sets.New(configMap))
	h.eventually("found, both told", func() bool {
		o, err := h.ConfigMap("ns", "cm")
		return err == nil && o.Data["k"] == "1" && o.ManagedFields == nil && h.wasTold("p1")
	})
	h.eventually("watched", func() bool { return h.watches() == 1 })
	if _, err := h.client.CoreV1().ConfigMaps("ns").Update(h.ctx, cm("2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("change seen", func() bool {
		o, err := h.ConfigMap("ns", "cm")
		return err == nil && o.Data["k"] == "2" && h.wasTold("p2")
	})
	if err := h.client.CoreV1().ConfigMaps("ns").Delete(h.ctx, "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("deletion seen", func() bool { _, err := h.ConfigMap("ns", "cm"); return apierrors.IsNotFound(err) })
	for _, a := range h.client.Actions() {
		if w, ok := a.(clienttesting.WatchAction); ok && w.GetWatchRestrictions().Fields.String() != "metadata.name=cm" {
			t.Errorf("watch of more than one object: %v", w.GetWatchRestrictions())
		}
	}
	h.Use("p1", nil)
	if h.inUse() != 1 {
		t.Error("released while in use")
	}
	h.Use("p2", nil)
	if h.inUse() != 0 {
		t.Error("not released")
	}
}

func TestSecretsAndAbsence(t *testing.T) {
	h := start(t, 10, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
	h.Use("p", sets.New(secret, configMap))
	h.eventually("secret found", func() bool { s, err := h.Secret("ns", "s"); return err == nil && string(s.Data["k"]) == "v" })
	h.eventually("config map is known to be absent", func() bool { _, err := h.ConfigMap("ns", "cm"); return apierrors.IsNotFound(err) })
}

func TestPendingThenDenied(t *testing.T) {
	h := start(t, 10)
	h.client.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), "s", errors.New("no"))
	})
	h.Use("p", sets.New(secret))
	h.eventually("denial told", func() bool {
		_, err := h.Secret("ns", "s")
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "secret ns/s") && h.wasTold("p")
	})
}

func TestImmutableObjectsAreNotWatched(t *testing.T) {
	o := cm("1")
	o.Immutable = ptr.To(true)
	h := start(t, 10, o)
	h.Use("p", sets.New(configMap))
	h.eventually("found", func() bool { _, err := h.ConfigMap("ns", "cm"); return err == nil })
	stopped := make(chan struct{})
	go func() { h.running.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("an immutable object is watched")
	}
	if _, err := h.ConfigMap("ns", "cm"); err != nil {
		t.Errorf("forgotten: %v", err)
	}
}

// TestImmutableObjectIsReplaced deletes an immutable object and creates another of its name while the first
// is in use.
func TestImmutableObjectIsReplaced(t *testing.T) {
	immutable := func(uid types.UID, value string) *corev1.ConfigMap {
		o := cm(value)
		o.UID, o.Immutable = uid, ptr.To(true)
		return o
	}
	for name, tt := range map[string]struct {
		next     *corev1.ConfigMap // nil: only deleted
		wantTold []string
	}{
		"by another":         {next: immutable("2", "2"), wantTold: []string{"newcomer", "user"}},
		"by a mutable one":   {next: cm("2"), wantTold: []string{"newcomer", "user"}},
		"by nothing":         {wantTold: []string{"newcomer", "user"}},
		"it is still itself": {next: immutable("1", "1"), wantTold: []string{"newcomer"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, 1, immutable("1", "1"))
			h.Use("user", sets.New(configMap))
			h.eventually("found", func() bool { _, err := h.ConfigMap("ns", "cm"); return err == nil && h.wasTold("user") })
			h.running.Wait() // it is not watched any more
			configMaps := h.client.CoreV1().ConfigMaps("ns")
			if err := configMaps.Delete(h.ctx, "cm", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if tt.next != nil {
				if _, err := configMaps.Create(h.ctx, tt.next, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			h.mu.Lock()
			h.told = nil
			h.mu.Unlock()
			gate := make(chan struct{})
			h.client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
				<-gate
				return false, nil, nil
			})
			h.Use("short", sets.New(configMap))
			h.Use("short", nil)
			if h.Use("newcomer", sets.New(configMap)) {
				t.Error("the newcomer is given what was known before")
			}
			if !h.Use("user", sets.New(configMap)) {
				t.Error("the user has to wait for the newcomer's sake")
			}
			close(gate)
			h.eventually("looked up again", func() bool { return h.wasTold("newcomer") && h.Use("newcomer", sets.New(configMap)) })
			switch o, err := h.ConfigMap("ns", "cm"); {
			case tt.next == nil && !apierrors.IsNotFound(err):
				t.Errorf("got %v (%v), want nothing", o, err)
			case tt.next != nil && (err != nil || o.Data["k"] != tt.next.Data["k"]):
				t.Errorf("got %v (%v), want %s", o, err, tt.next.Data)
			}
			h.mu.Lock()
			if told := slices.Sorted(slices.Values(h.told)); !slices.Equal(told, tt.wantTold) {
				t.Errorf("told %v, want %v", told, tt.wantTold)
			}
			h.mu.Unlock()
			h.Use("user", nil)
			h.Use("newcomer", nil)
			// There is room for one.
			if h.Use("p", sets.New(secret)); h.watched != 1 {
				t.Errorf("%d objects are watched, want the Secret", h.watched)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	h := start(t, 1, cm("1"), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}})
	h.Use("p1", sets.New(configMap))
	h.Use("p2", sets.New(secret))
	if _, err := h.Secret("ns", "s"); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("beyond the limit: %v", err)
	}
	h.Use("p1", nil)
	h.Use("p2", sets.New(secret))
	h.eventually("found once there is room", func() bool { _, err := h.Secret("ns", "s"); return err == nil })
}
