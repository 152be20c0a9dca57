package gateway

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrTokenUnknown says that a token never existed, is used up or expired.
var ErrTokenUnknown = errors.New("the enrolment token is unknown, expired or used up")

// TokenRecord is what is kept of an enrolment token.
type TokenRecord struct {
	// ID names the token in logs.
	ID string `json:"id"`
	// Hash of the token, see identity.Token.
	Hash string `json:"-"`
	// Device that the token is for.
	Device Device `json:"device"`
	// Expires is when the token stops being valid.
	Expires time.Time `json:"expires"`
}

// TokenStore keeps enrolment tokens, of which it knows the hashes only.
type TokenStore interface {
	// Create keeps a record until it expires.
	Create(ctx context.Context, record TokenRecord) error
	// Get returns the record of a token that is still valid, else ErrTokenUnknown.
	Get(ctx context.Context, hash string) (*TokenRecord, error)
	// Consume removes the record. Exactly one of several callers succeeds, the others get
	// ErrTokenUnknown.
	Consume(ctx context.Context, record *TokenRecord) error
	// Restore undoes Consume, for an enrolment that failed for no fault of the device.
	Restore(ctx context.Context, record *TokenRecord) error
}

// NewEtcdTokens returns a TokenStore in etcd, under <prefix>/enrollment-tokens/.
func NewEtcdTokens(client *clientv3.Client, prefix string) TokenStore { return nil }
