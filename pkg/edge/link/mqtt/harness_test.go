package mqtt

import (
	"context"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// withTimeout dials for a limited time.
func withTimeout(t testing.TB, d Dialer, limit time.Duration) (*link.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return d.Dial(ctx, "")
}

// breakNetwork cuts a client's connection to the broker without a word.
func breakNetwork(t testing.TB, cl *client) error {
	t.Helper()
	return cl.network.Close()
}
