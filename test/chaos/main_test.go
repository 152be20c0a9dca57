// Package chaos_test tries what a device is made for: its link, agent, container runtime and power fail in
// random order, and its pods are looked at from outside, through the container runtime and the cluster's
// API. Everything that takes part is real. "make chaos" runs it with many rounds and prints figures.
//
// What belongs here is what happens over and over under failures of all kinds; tests of a single failure
// are in test/e2e.
package chaos_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

const (
	device = "device-1"
	// defaultRounds is enough to see that the trial itself works.
	defaultRounds = 5
)

func TestMain(m *testing.M) {
	suite.Main(m, suite.Config{Runtime: local.RuntimeContainerd, Etcd: local.EtcdEmbedded, Devices: 1, NeedsRoot: true})
}

// number reads a variable of the environment.
func number(t *testing.T, variable string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// parameters of the trial: ARANYA_CHAOS_ROUNDS and, to repeat one, ARANYA_CHAOS_SEED.
func parameters(t *testing.T) (rounds int, seed uint64) {
	t.Helper()
	return int(number(t, "ARANYA_CHAOS_ROUNDS", defaultRounds)), number(t, "ARANYA_CHAOS_SEED", uint64(time.Now().UnixNano()))
}
