package gateway_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// enrolWith uses a token with a key of its own.
func (w *world) enrolWith(t *testing.T, token string) error {
	t.Helper()
	csr, _ := newCSR(t)
	_, err := w.rawClient(t, nil).Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
	return err
}

// Whoever enrols uses up all tokens that there are, and none that there will be.
func TestEnrolmentVoidsTokens(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	another := w.token(t, w.directory.put("device-2", "uid-2"), time.Hour)
	first, second, third := w.token(t, ed, time.Hour), w.token(t, ed, time.Hour), w.token(t, ed, time.Hour)
	if first == second || second == third {
		t.Errorf("tokens issued in a row are the same: %s", second)
	}
	if err := w.enrolWith(t, second); err != nil {
		t.Fatal(err)
	}
	for _, used := range []string{first, second, third} {
		wantCode(t, w.enrolWith(t, used), codes.Unauthenticated, "used up")
	}
	if err := w.enrolWith(t, w.token(t, ed, time.Hour)); err != nil {
		t.Errorf("with a token issued since: %v", err)
	}
	if err := w.enrolWith(t, another); err != nil {
		t.Errorf("another device: %v", err)
	}
}

// Many come at once with one token; one gets in.
func TestOneOfManyEnrols(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	token := w.token(t, ed, time.Hour)
	// To look in the cache is not enough.
	before, _ := w.directory.Get("edge", "device-1")
	w.directory.lag("device-1", before)
	var enrolled atomic.Int32
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := w.enrolWith(t, token); err == nil {
				enrolled.Add(1)
			} else {
				wantCode(t, err, codes.Unauthenticated, "used up")
			}
		})
	}
	group.Wait()
	if enrolled.Load() != 1 {
		t.Errorf("the token was used %d times", enrolled.Load())
	}
}

// A failure on our side leaves the token good.
func TestEnrolFails(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	w.directory.fail = errors.New("etcd is on fire")
	wantCode(t, w.enrolWith(t, token), codes.Unavailable, "still good")
	w.directory.fail = nil
	if err := w.enrolWith(t, token); err != nil {
		t.Error(err)
	}
}

// A device that does not get the answer asks again with the same key. With another key it would be another device.
func TestEnrolAnswerLost(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	token := w.token(t, ed, time.Hour)
	w.directory.losses = 1
	csr, _ := newCSR(t)
	client := w.rawClient(t, nil)
	_, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
	wantCode(t, err, codes.Unavailable, "timed out")
	before, _ := w.directory.Get("edge", "device-1")
	next := w.token(t, ed, time.Hour)
	wantCode(t, w.enrolWith(t, token), codes.Unauthenticated, "used up")
	if _, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr}); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	now, _ := w.directory.Get("edge", "device-1")
	if at := now.Status.Certificate.EnrolledAt; !at.Equal(before.Status.Certificate.EnrolledAt) {
		t.Errorf("enrolled at %s, then again at %s", before.Status.Certificate.EnrolledAt, at)
	}
	if err := w.enrolWith(t, next); err != nil {
		t.Errorf("with a token issued before the same came again: %v", err)
	}
	_, err = client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
	wantCode(t, err, codes.Unauthenticated, "used up")

	// An agent does so by itself.
	w.directory.losses = 1
	if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: w.token(t, ed, time.Hour), StateDir: t.TempDir()}); err != nil {
		t.Errorf("Join: %v", err)
	}
}

// An EdgeDevice that was just made, or made anew, may not be in the cache.
func TestEnrolAheadOfTheCache(t *testing.T) {
	w := newWorld(t)
	former := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "device-1", UID: "uid-0"}}
	for name, cached := range map[string]*v1alpha1.EdgeDevice{"absent": nil, "former": former} {
		t.Run(name, func(t *testing.T) {
			ed := w.directory.put("device-1", "uid-1")
			w.directory.lag("device-1", cached)
			token := w.token(t, ed, time.Hour)
			if err := w.enrolWith(t, token); err != nil {
				t.Error(err)
			}
		})
	}
}

// enrolledAt is an EdgeDevice whose device enrolled at a time.
func enrolledAt(at *metav1.MicroTime) func(*v1alpha1.EdgeDevice) {
	return func(ed *v1alpha1.EdgeDevice) {
		ed.Status.Certificate = &v1alpha1.CertificateStatus{SerialNumber: "1", PublicKeySHA256: "a", EnrolledAt: at}
	}
}

func TestClocksOfReplicas(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		at     *metav1.MicroTime
		refuse bool
	}{
		"enrolled before this was recorded": {},
		"enrolled at a replica ahead":       {at: &metav1.MicroTime{Time: time.Now().Add(4 * time.Minute)}},
		"enrolled by a wrong clock":         {at: &metav1.MicroTime{Time: time.Now().Add(time.Hour)}, refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			ed := w.directory.put("device-1", "uid-1", enrolledAt(test.at))
			token, _, err := w.IssueToken(t.Context(), ed, time.Hour)
			if (err != nil) != test.refuse {
				t.Fatalf("issuing a token: %v", err)
			}
			if test.refuse {
				return
			}
			if err := w.enrolWith(t, token); err != nil {
				t.Fatal(err)
			}
			wantCode(t, w.enrolWith(t, token), codes.Unauthenticated, "used up")
			now, _ := w.directory.Get("edge", "device-1")
			if at := now.Status.Certificate.EnrolledAt; test.at != nil && !at.After(test.at.Time) {
				t.Errorf("enrolled at %s, before at %s", at, test.at)
			}
		})
	}
}

// A token says for how long it is good, within what can be written.
func TestLifeOfTokens(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	for life, good := range map[time.Duration]bool{
		time.Second: true, 7 * 24 * time.Hour: true, time.Millisecond: false, 0: false, -time.Hour: false, 13 * 24 * time.Hour: false,
	} {
		if _, _, err := w.IssueToken(t.Context(), ed, life); (err == nil) != good {
			t.Errorf("a token for %s: %v", life, err)
		}
	}
	token, expires, err := w.IssueToken(t.Context(), ed, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(expires))
	wantCode(t, w.enrolWith(t, token), codes.Unauthenticated, "expired")
	if stored, _ := w.directory.Get("edge", "device-1"); stored.Status.Certificate != nil {
		t.Errorf("a certificate was recorded: %+v", stored.Status.Certificate)
	}
}

// All replicas know the tokens of each other, and no others.
func TestTokenOfAnotherReplica(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	other := newWorld(t, func(c *gateway.Config) { c.Authority, c.Devices = w.config.Authority, w.directory })
	token := other.token(t, ed, time.Hour)
	if err := w.enrolWith(t, token); err != nil {
		t.Error(err)
	}
	wantCode(t, other.enrolWith(t, token), codes.Unauthenticated, "used up")

	stranger := newWorld(t)
	wantCode(t, w.enrolWith(t, stranger.token(t, ed, time.Hour)), codes.Unauthenticated, "unknown")
}
