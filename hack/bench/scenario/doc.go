// Package scenario holds the benchmarks, one file each. A scenario says what it measures and what the
// figures should be; clusters, clients and instruments come from package harness.
package scenario

import "arhat.dev/aranya/hack/bench/harness"

// All returns the scenarios in the order in which they are run.
func All() []harness.Scenario {
	return []harness.Scenario{
		ceiling,
		deploy,
		idle,
		storm,
		large,
		replace,
		pods,
		agent,
		streams,
		links,
		fleetScenario,
		noise,
	}
}
