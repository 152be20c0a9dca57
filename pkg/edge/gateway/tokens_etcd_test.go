package gateway_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/identity"
)

func newEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.LogLevel = "error"
	c.UnsafeNoFsync = true
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{local}, []url.URL{local}
	server, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(deadline):
		t.Fatal("etcd did not start")
	}
	client := v3client.New(server.Server)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestEtcdTokens(t *testing.T) {
	client := newEtcd(t)
	store := gateway.NewEtcdTokens(client, "/registry/aranya")
	ctx := t.Context()
	token := identity.NewToken([]byte("ca"))
	record := gateway.TokenRecord{
		ID: token.ID, Hash: token.Hash(), Expires: time.Now().Add(time.Hour).Truncate(time.Second),
		Device: gateway.Device{Namespace: "edge", Name: "device-1", UID: "uid-1"},
	}
	if err := store.Create(ctx, record); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(ctx, record); err == nil {
		t.Error("the same token was kept twice")
	}

	// Nothing that is kept gives the secret away, and it all ends with a lease.
	all, err := client.Get(ctx, "", clientv3.WithPrefix())
	if err != nil || len(all.Kvs) != 1 {
		t.Fatalf("%v keys, error %v", all, err)
	}
	kv := all.Kvs[0]
	if string(kv.Key) != "/registry/aranya/enrollment-tokens/"+token.Hash() || strings.Contains(string(kv.Value), token.Secret) || kv.Lease == 0 {
		t.Errorf("kept %s: %s, lease %x", kv.Key, kv.Value, kv.Lease)
	}
	if ttl, err := client.TimeToLive(ctx, clientv3.LeaseID(kv.Lease)); err != nil || ttl.TTL < 3600 || ttl.TTL > 3661 {
		t.Errorf("lease %v, error %v", ttl, err)
	}

	if _, err := store.Get(ctx, identity.NewToken(nil).Hash()); !errors.Is(err, gateway.ErrTokenUnknown) {
		t.Errorf("Get of an unknown token: %v", err)
	}
	got, err := store.Get(ctx, token.Hash())
	if err != nil || got.Device != record.Device || got.ID != record.ID || !got.Expires.Equal(record.Expires) {
		t.Fatalf("Get: %+v, error %v", got, err)
	}

	// Many come at once; one succeeds.
	var won atomic.Int32
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			switch err := store.Consume(ctx, got); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, gateway.ErrTokenUnknown):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("the token was used %d times", won.Load())
	}
	if _, err := store.Get(ctx, token.Hash()); !errors.Is(err, gateway.ErrTokenUnknown) {
		t.Errorf("Get of a used token: %v", err)
	}

	// Given back, it is good for as long as before and no longer.
	if err := store.Restore(ctx, got); err != nil {
		t.Fatal(err)
	}
	again, err := client.Get(ctx, string(kv.Key))
	if err != nil || len(again.Kvs) != 1 || again.Kvs[0].Lease != kv.Lease {
		t.Errorf("restored %v, error %v", again, err)
	}
	if err := store.Consume(ctx, got); err != nil {
		t.Error(err)
	}
}

func TestEtcdTokensExpire(t *testing.T) {
	client := newEtcd(t)
	store := gateway.NewEtcdTokens(client, "aranya")
	record := gateway.TokenRecord{Hash: "hash", Expires: time.Now().Add(time.Second)}
	if err := store.Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	// By the clock, and in etcd when the lease ends.
	eventually(t, "the token has expired", func() bool {
		_, err := store.Get(t.Context(), "hash")
		return errors.Is(err, gateway.ErrTokenUnknown)
	})
	if err := store.Create(t.Context(), gateway.TokenRecord{Hash: "late", Expires: time.Now()}); err == nil {
		t.Error("a token that has expired was kept")
	}
}

// leaseSpread is how much longer than its token a lease may last.
const leaseSpread = time.Minute

// leases returns the lease of each token.
func leases(t *testing.T, client *clientv3.Client) map[string]clientv3.LeaseID {
	t.Helper()
	resp, err := client.Get(t.Context(), "/aranya/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]clientv3.LeaseID{}
	for _, kv := range resp.Kvs {
		found[string(kv.Key[len("/aranya/enrollment-tokens/"):])] = clientv3.LeaseID(kv.Lease)
	}
	return found
}

// Tokens of about the same life are on one lease, which outlives each of them by a minute at most.
func TestEtcdTokensShareLeases(t *testing.T) {
	client := newEtcd(t)
	store := gateway.NewEtcdTokens(client, "aranya")
	now := time.Now()
	tokens := []struct {
		hash  string
		life  time.Duration
		lease int
	}{
		{"a", time.Hour, 1}, {"b", time.Hour, 1}, {"c", time.Hour + leaseSpread, 1}, {"d", time.Hour + leaseSpread + time.Second, 2},
		{"e", 3 * time.Hour, 3}, {"f", 3*time.Hour - time.Second, 4},
	}
	for _, token := range tokens {
		if err := store.Create(t.Context(), gateway.TokenRecord{Hash: token.hash, Expires: now.Add(token.life)}); err != nil {
			t.Fatal(err)
		}
	}
	got := leases(t, client)
	numbers := map[clientv3.LeaseID]int{}
	for _, token := range tokens {
		lease := got[token.hash]
		if numbers[lease] == 0 {
			numbers[lease] = len(numbers) + 1
		}
		if numbers[lease] != token.lease {
			t.Errorf("token %s is on lease %d, want %d", token.hash, numbers[lease], token.lease)
		}
		ttl, err := client.TimeToLive(t.Context(), lease)
		if left := int64(time.Until(now.Add(token.life)).Seconds()); err != nil || ttl.TTL < left || ttl.TTL > left+62 {
			t.Errorf("%s, good for %d s, has a lease for %v, error %v", token.hash, left, ttl, err)
		}
	}

	// A lease that is gone is not held on to, and takes its tokens with it.
	if _, err := client.Revoke(t.Context(), got["f"]); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), gateway.TokenRecord{Hash: "g", Expires: now.Add(3 * time.Hour)}); err != nil {
		t.Errorf("after the shared lease was revoked: %v", err)
	}
	if got := leases(t, client); got["g"] == 0 || got["f"] != 0 {
		t.Errorf("after the revocation: %v", got)
	}
}

func TestEtcdTokensDown(t *testing.T) {
	client := newEtcd(t)
	store := gateway.NewEtcdTokens(client, "aranya")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Create(ctx, gateway.TokenRecord{Hash: "hash", Expires: time.Now().Add(time.Hour)}); err == nil {
		t.Error("Create without etcd succeeded")
	}
	if _, err := store.Get(ctx, "hash"); err == nil || errors.Is(err, gateway.ErrTokenUnknown) {
		t.Errorf("Get without etcd: %v", err) // unknown would count as a bad token
	}
	if err := store.Consume(ctx, &gateway.TokenRecord{Hash: "hash"}); err == nil || errors.Is(err, gateway.ErrTokenUnknown) {
		t.Errorf("Consume without etcd: %v", err)
	}
}

// The whole way with the real store.
func TestEnrolWithEtcd(t *testing.T) {
	client := newEtcd(t)
	w := newWorld(t, func(c *gateway.Config) { c.Tokens = gateway.NewEtcdTokens(client, "aranya") })
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	receive(t, d.connected, "the device to connect")
	if resp, err := client.Get(t.Context(), "", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("left behind: %v, error %v", resp, err)
	}
}
