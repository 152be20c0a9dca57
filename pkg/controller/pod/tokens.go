package pod

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
)

const (
	// tokenLife is what is asked for if the volume does not say.
	tokenLife = time.Hour
	// maxTokenAge is when a token is replaced at the latest.
	maxTokenAge = 24 * time.Hour
	// tokenJitter spreads the replacement of tokens issued at the same time.
	tokenJitter = 10 * time.Second
	// tokenRetry is how soon a failed replacement is tried again while the old token is good.
	tokenRetry = 30 * time.Second
)

// tokenCache issues service account tokens and keeps those in use. It implements resolve.Tokens.
type tokenCache struct {
	client kubernetes.Interface
	clock  clock.PassiveClock

	mu     sync.Mutex
	tokens map[types.UID]map[tokenKey]issuedToken
}

type tokenKey struct {
	audience string
	seconds  int64
}

type issuedToken struct {
	token            string
	refresh, expires time.Time
}

func newTokenCache(client kubernetes.Interface, clock clock.PassiveClock) *tokenCache {
	return &tokenCache{client: client, clock: clock, tokens: map[types.UID]map[tokenKey]issuedToken{}}
}

// Token implements resolve.Tokens. A token is replaced after 80 % of its life or a day. If that fails
// the old one is returned as long as it is valid.
func (c *tokenCache) Token(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	key := tokenKey{audience: source.Audience, seconds: ptr.Deref(source.ExpirationSeconds, int64(tokenLife/time.Second))}
	c.mu.Lock()
	old, have := c.tokens[pod.UID][key]
	c.mu.Unlock()
	now := c.clock.Now()
	if have && now.Before(old.refresh) {
		return old.token, old.refresh, nil
	}
	issued, err := c.request(ctx, pod, key)
	if err != nil {
		if have && now.Before(old.expires) {
			klog.FromContext(ctx).Error(err, "Cannot replace a service account token, keeping the old one", "pod", klog.KObj(pod), "expires", old.expires)
			return old.token, now.Add(tokenRetry), nil
		}
		return "", time.Time{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens[pod.UID] == nil {
		c.tokens[pod.UID] = map[tokenKey]issuedToken{}
	}
	c.tokens[pod.UID][key] = issued
	return issued.token, issued.refresh, nil
}

func (c *tokenCache) request(ctx context.Context, pod *corev1.Pod, key tokenKey) (issuedToken, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	response, err := c.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return issuedToken{}, err
	}
	now, expires := c.clock.Now(), response.Status.ExpirationTimestamp.Time
	life := expires.Sub(now)
	age := min(life*8/10, maxTokenAge)
	age -= min(rand.N(tokenJitter), age/10)
	age = max(age, tokenRetry) // the clock may be ahead of the cluster's by as much as the token lives
	return issuedToken{token: response.Status.Token, refresh: now.Add(age), expires: expires}, nil
}

// Forget drops the tokens of a pod that is gone.
func (c *tokenCache) Forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, uid)
}
