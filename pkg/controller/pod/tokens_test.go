package pod

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

func TestTokens(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Unix(1_000_000, 0))
	client := fake.NewClientset()
	issued, down := 0, false
	var last authenticationv1.TokenRequestSpec
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if down {
			return true, nil, errors.New("unavailable")
		}
		issued++
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		last = request.Spec
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
			Token:               fmt.Sprintf("t%d", issued),
			ExpirationTimestamp: metav1.NewTime(clock.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second)),
		}}, nil
	})
	c := newTokenCache(client, clock)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{ServiceAccountName: "sa"}}
	source := &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: ptr.To[int64](3600), Path: "token"}
	get := func() (string, time.Time, error) { return c.Token(context.Background(), p, source) }

	token, refresh, err := get()
	if err != nil || token != "t1" {
		t.Fatalf("%s %v", token, err)
	}
	if at := refresh.Sub(clock.Now()); at > 48*time.Minute || at < 47*time.Minute {
		t.Errorf("replaced after %s, want 80 %% of an hour", at)
	}
	if last.Audiences[0] != "vault" || last.BoundObjectRef.Kind != "Pod" || last.BoundObjectRef.UID != "u" || last.BoundObjectRef.Name != "p" {
		t.Errorf("request: %+v", last)
	}
	if token, _, _ = get(); token != "t1" {
		t.Error("not cached")
	}
	clock.SetTime(refresh)
	down = true
	if token, again, err := get(); err != nil || token != "t1" || again.Sub(clock.Now()) != tokenRetry {
		t.Errorf("the old token is good: %s %v %v", token, again, err)
	}
	clock.SetTime(clock.Now().Add(time.Hour))
	if _, _, err := get(); err == nil {
		t.Error("an expired token was returned")
	}
	down = false
	if token, _, err = get(); err != nil || token != "t2" {
		t.Errorf("%s %v", token, err)
	}
	c.Forget("u")
	if token, _, _ = get(); token != "t3" {
		t.Error("not forgotten")
	}
	source.ExpirationSeconds = ptr.To[int64](10 * 24 * 3600)
	if _, refresh, _ = get(); refresh.Sub(clock.Now()) > maxTokenAge {
		t.Error("a token is kept for more than a day")
	}
}

// A clock that is ahead must not make a request of each look at a token.
func TestTokensWithAClockThatIsAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"by all of its life": time.Hour, "by nearly all": time.Hour - time.Second, "by more": 3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakePassiveClock(time.Unix(1_000_000, 0))
			client := fake.NewClientset()
			issued := 0
			client.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
				issued++
				return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
					Token: "t", ExpirationTimestamp: metav1.NewTime(clock.Now().Add(time.Hour - ahead)),
				}}, nil
			})
			c := newTokenCache(client, clock)
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
			for range 2 {
				_, refresh, err := c.Token(context.Background(), p, &corev1.ServiceAccountTokenProjection{Path: "token"})
				if again := refresh.Sub(clock.Now()); err != nil || again < tokenRetry {
					t.Errorf("replaced after %s, error %v", again, err)
				}
			}
			if issued != 1 {
				t.Errorf("%d were asked for", issued)
			}
		})
	}
}
