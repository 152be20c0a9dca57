package gateway

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/types"
)

// leaseSpread is how much later than its token a lease may end, so that tokens of about the same time
// share one: a lease costs etcd as much as the token itself.
const leaseSpread = time.Minute

// etcdTokens keeps each token under the hash of its secret, on a lease that ends with it or soon after.
type etcdTokens struct {
	client *clientv3.Client
	prefix string

	mu sync.Mutex
	// lease is for tokens that expire in the minute until leaseUntil. Tokens mostly have the same life, so
	// that the last one is the one to use again.
	lease      clientv3.LeaseID
	leaseUntil time.Time
}

// tokenValue is the value of a token's key.
type tokenValue struct {
	ID        string    `json:"id"`
	Hash      string    `json:"hash"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Expires   time.Time `json:"expires"`
}

// NewEtcdTokens returns a TokenStore in etcd, under <prefix>/enrollment-tokens/.
func NewEtcdTokens(client *clientv3.Client, prefix string) TokenStore {
	return &etcdTokens{client: client, prefix: path.Join("/", prefix, "enrollment-tokens") + "/"}
}

// Create implements TokenStore.
func (t *etcdTokens) Create(ctx context.Context, record TokenRecord) error {
	if !time.Now().Before(record.Expires) {
		return errors.New("the token would have expired before it was kept")
	}
	err := t.putOnLease(ctx, &record)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // the one at hand was revoked by somebody else
		err = t.putOnLease(ctx, &record)
	}
	return err
}

func (t *etcdTokens) putOnLease(ctx context.Context, record *TokenRecord) error {
	lease, err := t.leaseFor(ctx, record.Expires)
	if err != nil {
		return fmt.Errorf("keeping the enrolment token: %w", err)
	}
	record.lease = int64(lease)
	if err = t.put(ctx, record); errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.forget(lease)
	}
	return err
}

// leaseFor returns a lease that ends with a token or up to leaseSpread later. One that no token uses in
// the end expires by itself.
func (t *etcdTokens) leaseFor(ctx context.Context, expires time.Time) (clientv3.LeaseID, error) {
	t.mu.Lock()
	defer t.mu.Unlock() // while others would ask for the same lease
	if spread := t.leaseUntil.Sub(expires); t.lease != 0 && spread >= 0 && spread <= leaseSpread {
		return t.lease, nil
	}
	until := expires.Add(leaseSpread)
	granted, err := t.client.Grant(ctx, int64(math.Ceil(time.Until(until).Seconds())))
	if err != nil {
		return 0, err
	}
	t.lease, t.leaseUntil = granted.ID, until
	return granted.ID, nil
}

func (t *etcdTokens) forget(lease clientv3.LeaseID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lease == lease {
		t.lease = 0
	}
}

func (t *etcdTokens) put(ctx context.Context, record *TokenRecord) error {
	value, err := json.Marshal(tokenValue{
		ID: record.ID, Hash: record.Hash, Expires: record.Expires,
		Namespace: record.Device.Namespace, Name: record.Device.Name, UID: record.Device.UID,
	})
	if err != nil {
		return err
	}
	key := t.prefix + record.Hash
	resp, err := t.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(record.lease)))).
		Commit()
	if err != nil {
		return fmt.Errorf("keeping the enrolment token: %w", err)
	}
	if !resp.Succeeded {
		return errors.New("keeping the enrolment token: there is one with the same hash")
	}
	return nil
}

// Get implements TokenStore.
func (t *etcdTokens) Get(ctx context.Context, hash string) (*TokenRecord, error) {
	resp, err := t.client.Get(ctx, t.prefix+hash)
	if err != nil {
		return nil, fmt.Errorf("looking the enrolment token up: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return nil, ErrTokenUnknown
	}
	var v tokenValue
	if err := json.Unmarshal(resp.Kvs[0].Value, &v); err != nil {
		return nil, fmt.Errorf("the record of the enrolment token is damaged: %w", err)
	}
	// etcd found the key by the hash; compare all of it again in constant time. The lease ends later than
	// the token.
	if subtle.ConstantTimeCompare([]byte(v.Hash), []byte(hash)) != 1 || !time.Now().Before(v.Expires) {
		return nil, ErrTokenUnknown
	}
	return &TokenRecord{
		ID: v.ID, Hash: v.Hash, Expires: v.Expires, lease: resp.Kvs[0].Lease,
		Device: Device{Namespace: v.Namespace, Name: v.Name, UID: v.UID},
	}, nil
}

// Consume implements TokenStore.
func (t *etcdTokens) Consume(ctx context.Context, record *TokenRecord) error {
	resp, err := t.client.Delete(ctx, t.prefix+record.Hash)
	if err != nil {
		return fmt.Errorf("using the enrolment token: %w", err)
	}
	if resp.Deleted != 1 {
		return ErrTokenUnknown
	}
	return nil
}

// Restore implements TokenStore.
func (t *etcdTokens) Restore(ctx context.Context, record *TokenRecord) error {
	return t.put(ctx, record)
}
