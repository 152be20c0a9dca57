package gateway

import (
	"context"
	"errors"
	"time"
)

// ErrTokenUnknown says that a token never existed, is used up or expired.
var ErrTokenUnknown = errors.New("the enrolment token is unknown, expired or used up")

// TokenRecord is what is kept of an enrolment token.
type TokenRecord struct {
	// ID names the token in logs.
	ID string
	// Hash of the token, see identity.Token.
	Hash string
	// Device that the token is for.
	Device Device
	// Expires is when the token stops being valid.
	Expires time.Time

	// lease of the record in etcd, so that Restore does not prolong its life.
	lease int64
}

// TokenStore keeps enrolment tokens, of which it knows the hashes only. Its methods may be called
// concurrently.
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
