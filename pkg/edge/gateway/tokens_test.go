package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/identity"
)

var tokenDevice = Device{Namespace: "edge", Name: "device-1", UID: "6f0c3c1e-0000-4000-8000-000000000001"}

// What a token says is what it was minted with, up to the limits of its form.
func TestTokenClaims(t *testing.T) {
	key := NewTestAuthority(t).tokens
	for _, issued := range []time.Time{time.Now(), time.UnixMicro(0), time.UnixMicro(1<<40 - 1), time.UnixMicro(1 << 40), time.UnixMicro(1<<52 - 1)} {
		for _, life := range []time.Duration{time.Second, time.Hour, maxTokenLife} {
			data := key.mint(tokenDevice, issued, life)
			gotIssued, gotLife := claimsOf(data)
			if !gotIssued.Equal(issued.Truncate(time.Microsecond)) || gotLife != life {
				t.Errorf("issued at %s for %s, it says %s for %s", issued, life, gotIssued, gotLife)
			}
			if !key.verify(data, tokenDevice) {
				t.Errorf("issued at %s for %s, it does not verify", issued, life)
			}
		}
	}
}

func TestTokenTampered(t *testing.T) {
	key := NewTestAuthority(t).tokens
	data := key.mint(tokenDevice, time.Now(), time.Hour)
	// Id, time of issue, life and MAC: every bit counts.
	for i := range 8 * len(data) {
		changed := data
		changed[i/8] ^= 1 << (i % 8)
		if key.verify(changed, tokenDevice) {
			t.Errorf("with bit %d changed it still verifies", i)
		}
	}
	for name, d := range map[string]Device{
		"namespace":        {Namespace: "edge2", Name: tokenDevice.Name, UID: tokenDevice.UID},
		"name":             {Namespace: tokenDevice.Namespace, Name: "device-2", UID: tokenDevice.UID},
		"UID":              {Namespace: tokenDevice.Namespace, Name: tokenDevice.Name, UID: "another"},
		"none":             {},
		"boundary of name": {Namespace: "edged", Name: "evice-1", UID: tokenDevice.UID},
		"boundary of UID":  {Namespace: "edge", Name: "device-16", UID: tokenDevice.UID[1:]},
	} {
		if key.verify(data, d) {
			t.Errorf("%s: it verifies for another device", name)
		}
	}
	if NewTestAuthority(t).tokens.verify(data, tokenDevice) {
		t.Error("it verifies with another CA")
	}
}

// signerOnly has a key that stays elsewhere, such as in an HSM.
type signerOnly struct{ crypto.Signer }

// Replicas derive the same key from the same CA, in whatever format and of whatever kind its private key is.
func TestTokenKey(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var former []tokenKey
	for _, key := range []crypto.Signer{p256, rsaKey, edKey} {
		a := NewTestAuthority(t)
		one, err := newTokenKey(a.cert, key)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		read, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			t.Fatal(err)
		}
		two, err := newTokenKey(a.cert, read.(crypto.Signer))
		if err != nil || string(one) != string(two) || len(one) != 32 {
			t.Errorf("%T: replicas have different keys, error %v", key, err)
		}
		renewed, err := newTokenKey(NewTestAuthority(t).cert, key)
		if err != nil || string(renewed) == string(one) {
			t.Errorf("%T: another certificate leaves the key as it was, error %v", key, err)
		}
		former = append(former, one, renewed)
	}
	slices.SortFunc(former, func(a, b tokenKey) int { return strings.Compare(string(a), string(b)) })
	if unique := slices.CompactFunc(former, func(a, b tokenKey) bool { return string(a) == string(b) }); len(unique) != 6 {
		t.Errorf("%d keys, want 6", len(unique))
	}
	if _, err := newAuthority(NewTestAuthority(t).cert, signerOnly{p256}, nil); err == nil || !strings.Contains(err.Error(), "enrolment tokens") {
		t.Errorf("a private key that cannot be read: %v", err)
	}
}

// A Secret in an older format of keys is the same CA.
func TestTokenKeyOfSecret(t *testing.T) {
	secret, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	one, err := authorityFromSecret(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(one.key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	secret.Data["tls.key"] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	two, err := authorityFromSecret(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !two.tokens.verify(one.tokens.mint(tokenDevice, time.Now(), time.Hour), tokenDevice) || one.hash != two.hash {
		t.Error("the token of one replica is not known to the other")
	}
}

func TestTokenClock(t *testing.T) {
	var clock tokenClock
	const each = 1000
	times := make([][]time.Time, 8)
	var group sync.WaitGroup
	for i := range times {
		group.Go(func() {
			for range each {
				times[i] = append(times[i], clock.now())
			}
		})
	}
	group.Wait()
	seen := map[int64]bool{}
	for _, list := range times {
		for i, at := range list {
			if seen[at.UnixMicro()] {
				t.Fatalf("%s was told twice", at)
			}
			seen[at.UnixMicro()] = true
			if i > 0 && !at.After(list[i-1]) {
				t.Fatalf("%s after %s", at, list[i-1])
			}
		}
	}
	clock.last.Store(time.Now().Add(time.Hour).UnixMicro())
	if ahead := time.Until(clock.now()); ahead > time.Minute {
		t.Errorf("after the clock was set back it is %s ahead", ahead)
	}
}

func TestCertified(t *testing.T) {
	now := time.Now().Truncate(time.Microsecond)
	at := &metav1.MicroTime{Time: now}
	next := v1alpha1.CertificateStatus{SerialNumber: "2", PublicKeySHA256: "b", EnrolledAt: &metav1.MicroTime{Time: now.Add(time.Hour)}}
	for name, test := range map[string]struct {
		current *v1alpha1.CertificateStatus
		token   time.Time
		want    error
		at      *metav1.MicroTime
		uid     types.UID
		deleted bool
	}{
		"first":                             {token: now, at: next.EnrolledAt},
		"issued since":                      {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "a", EnrolledAt: at}, token: now.Add(time.Microsecond), at: next.EnrolledAt},
		"issued then":                       {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "a", EnrolledAt: at}, token: now, want: ErrTokenUsed},
		"issued before":                     {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "a", EnrolledAt: at}, token: now.Add(-time.Microsecond), want: ErrTokenUsed},
		"issued then, for the same key":     {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "b", EnrolledAt: at}, token: now, at: at},
		"issued since, for the same key":    {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "b", EnrolledAt: at}, token: now.Add(time.Second), at: next.EnrolledAt},
		"enrolled before this was recorded": {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "a"}, token: now.Add(-time.Hour), at: next.EnrolledAt},
		"renewal":                           {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "b", EnrolledAt: at}, at: at},
		"renewal of before":                 {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "b"}},
		"renewal with another key":          {current: &v1alpha1.CertificateStatus{PublicKeySHA256: "a"}, want: ErrReplaced},
		"renewal of nothing":                {want: ErrReplaced},
		"another UID":                       {uid: "another", token: now, want: ErrReplaced},
		"being deleted":                     {deleted: true, token: now, want: ErrReplaced},
	} {
		t.Run(name, func(t *testing.T) {
			ed := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{UID: "uid"}, Status: v1alpha1.EdgeDeviceStatus{Certificate: test.current}}
			if test.uid != "" {
				ed.UID = test.uid
			}
			if test.deleted {
				ed.DeletionTimestamp = &metav1.Time{Time: now}
			}
			got, err := Certified(ed, Device{UID: "uid"}, next, test.token)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil && (got.SerialNumber != "2" || got.PublicKeySHA256 != "b" || !got.EnrolledAt.Equal(test.at)) {
				t.Errorf("got %+v, want it enrolled at %s", got, test.at)
			}
		})
	}
}

// Whatever somebody makes up does not verify, nor claim what cannot be counted with.
func FuzzTokenVerify(f *testing.F) {
	key := NewTestAuthority(f).tokens
	minted := key.mint(tokenDevice, time.Now(), time.Hour)
	f.Add(minted[:])
	f.Add(make([]byte, identity.TokenBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != identity.TokenBytes {
			return
		}
		data := [identity.TokenBytes]byte(b)
		if key.verify(data, tokenDevice) != (data == minted) {
			t.Errorf("%x verifies", data)
		}
		issued, life := claimsOf(data)
		if micros := issued.UnixMicro(); micros < 0 || micros > 1<<52 || life < 0 || life > maxTokenLife || issued.Add(life).Before(issued) {
			t.Errorf("%x was issued at %s for %s", data, issued, life)
		}
		if again := key.mint(tokenDevice, issued, life); string(again[:tokenClaimBytes]) != string(data[:tokenClaimBytes]) {
			t.Errorf("%x claims the same as %x", data, again)
		}
	})
}

func BenchmarkTokenMint(b *testing.B) {
	key := NewTestAuthority(b).tokens
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		key.mint(tokenDevice, now, time.Hour)
	}
}

func BenchmarkTokenVerify(b *testing.B) {
	key := NewTestAuthority(b).tokens
	data := key.mint(tokenDevice, time.Now(), time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if !key.verify(data, tokenDevice) {
			b.Fatal("it does not verify")
		}
	}
}
