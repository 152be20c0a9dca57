package direct

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/device"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// TestTokenIsUsedOnce has many devices enrol with one token at several replicas, none of which knows more than what was
// before. What decides is the storage.
func TestTokenIsUsedOnce(t *testing.T) {
	storage, devices := newDevices(t)
	store(t, storage, "d1")
	ed, err := devices.Get(t.Context(), "d1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	replicas := make([]device.Directory, 3)
	for i := range replicas {
		cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		if i > 0 { // one knows nothing of it yet
			if err := cached.Add(ed.DeepCopy()); err != nil {
				t.Fatal(err)
			}
		}
		client := New(fake.NewClientset(), storage)
		replicas[i] = device.Directory{Lister: aranyalisters.NewEdgeDeviceLister(cached), Client: client}
	}
	enrol := func(n int, token time.Time) error {
		return replicas[n%len(replicas)].SetCertificate(t.Context(), gateway.Device{Namespace: "edge", Name: "d1", UID: ed.UID}, v1alpha1.CertificateStatus{
			SerialNumber: fmt.Sprintf("%x", n), PublicKeySHA256: strings.Repeat(fmt.Sprintf("%02x", n), 32),
			NotAfter: metav1.NewTime(time.Now().Add(time.Hour)), EnrolledAt: &metav1.MicroTime{Time: time.Now()},
		}, token)
	}
	token := time.Now().Truncate(time.Microsecond)
	var winner, won atomic.Int32
	var group sync.WaitGroup
	for n := range 24 {
		group.Go(func() {
			switch err := enrol(n, token); {
			case err == nil:
				won.Add(1)
				winner.Store(int32(n))
			case !errors.Is(err, gateway.ErrTokenUsed):
				t.Errorf("enrolment %d: %v", n, err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Fatalf("the token was used %d times", won.Load())
	}
	now, err := devices.Get(t.Context(), "d1", metav1.GetOptions{})
	if err != nil || now.Status.Certificate == nil || now.Status.Certificate.SerialNumber != fmt.Sprintf("%x", winner.Load()) {
		t.Fatalf("the certificate in force is %+v, want that of %d; error %v", now.Status.Certificate, winner.Load(), err)
	}

	// The time of enrolment comes back from the storage to the microsecond.
	at := now.Status.Certificate.EnrolledAt
	if err := enrol(100, at.Time); !errors.Is(err, gateway.ErrTokenUsed) {
		t.Errorf("a token issued at the time of enrolment: %v", err)
	}
	if err := enrol(101, at.Add(time.Microsecond)); err != nil {
		t.Errorf("a token issued right after it: %v", err)
	}
}
