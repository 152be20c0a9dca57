package gateway

import (
	"crypto"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"arhat.dev/aranya/pkg/edge/identity"
)

// An enrolment token proves itself; it is kept nowhere. Its bytes are
//
//	5   the time of issue in µs since 1970, the low 40 bits. They are the id
//	4   the high 12 bits of it, and 20 bits: the life of the token in seconds
//	16  the MAC of these and of the device
//
// So it has the size that tokens always had, and agents take it that know nothing of this.
const (
	tokenClaimBytes = 9
	tokenMACBytes   = identity.TokenBytes - tokenClaimBytes

	tokenIDBits   = 40
	tokenLifeBits = 20
	// maxTokenLife is what can be written, 12 days.
	maxTokenLife = (1<<tokenLifeBits - 1) * time.Second

	// tokenKeyInfo is what the key is for. Another form of token needs another one.
	tokenKeyInfo = "arhat.dev/aranya enrolment token v1"
)

// tokenKey authenticates enrolment tokens. All replicas derive the same one from the device CA, and
// another one from another CA.
type tokenKey []byte

func newTokenKey(ca *x509.Certificate, key crypto.Signer) (tokenKey, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("no key for enrolment tokens can be derived from the private key: %w", err)
	}
	derived, err := hkdf.Key(sha256.New, secret, ca.Raw, tokenKeyInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the key for enrolment tokens: %w", err)
	}
	return derived, nil
}

// mint makes a token for a device. Of the time of issue whole microseconds count, of its life whole seconds.
func (k tokenKey) mint(device Device, issued time.Time, life time.Duration) [identity.TokenBytes]byte {
	var data [identity.TokenBytes]byte
	micros := uint64(issued.UnixMicro())
	var low [8]byte
	binary.BigEndian.PutUint64(low[:], micros)
	copy(data[:5], low[3:])
	binary.BigEndian.PutUint32(data[5:], uint32(micros>>tokenIDBits)<<tokenLifeBits|uint32(life/time.Second))
	mac := k.mac(data[:tokenClaimBytes], device)
	copy(data[tokenClaimBytes:], mac[:])
	return data
}

// claimsOf returns what a token says of itself, true or not.
func claimsOf(data [identity.TokenBytes]byte) (issued time.Time, life time.Duration) {
	var low [8]byte
	copy(low[3:], data[:5])
	rest := binary.BigEndian.Uint32(data[5:])
	micros := uint64(rest>>tokenLifeBits)<<tokenIDBits | binary.BigEndian.Uint64(low[:])
	return time.UnixMicro(int64(micros)), time.Duration(rest&(1<<tokenLifeBits-1)) * time.Second
}

// verify tells whether a token was minted for a device.
func (k tokenKey) verify(data [identity.TokenBytes]byte, device Device) bool {
	mac := k.mac(data[:tokenClaimBytes], device)
	return hmac.Equal(mac[:], data[tokenClaimBytes:])
}

// mac is an HMAC-SHA256, of which 128 bits are used, as RFC 4868 does it.
func (k tokenKey) mac(claims []byte, device Device) [tokenMACBytes]byte {
	h := hmac.New(sha256.New, k)
	h.Write(claims)
	// No part has a zero byte in it.
	h.Write([]byte(device.Namespace + "\x00" + device.Name + "\x00" + string(device.UID)))
	return [tokenMACBytes]byte(h.Sum(nil))
}

// tokenClock tells the time in microseconds, to each caller another one: what is issued after an enrolment is later
// than it, however quick they are.
type tokenClock struct{ last atomic.Int64 }

func (c *tokenClock) now() time.Time {
	for {
		last, now := c.last.Load(), time.Now().UnixMicro()
		if ahead := last - now; ahead >= 0 && ahead < time.Second.Microseconds() { // more: the clock was set back
			now = last + 1
		}
		if c.last.CompareAndSwap(last, now) {
			return time.UnixMicro(now)
		}
	}
}
