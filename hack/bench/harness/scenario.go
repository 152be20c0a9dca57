// Package harness runs benchmark scenarios: it brings up the cluster that a scenario needs, gives it
// clients and instruments, and collects its figures. What is measured is in the scenarios; how, in
// package measure; what is told of it, in package report.
package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"arhat.dev/aranya/hack/cluster/local"
)

// Controller-managers that a cluster can have.
const (
	// ControllerManagerStock has the default limit of 20 requests/s.
	ControllerManagerStock = "stock"
	// ControllerManagerFast has a limit that it does not reach.
	ControllerManagerFast = "fast"
)

// Scenario is one benchmark.
type Scenario struct {
	Name string
	// Doc says in a sentence what is measured.
	Doc string
	// N is how much of it there is by default, and SmokeN when only correctness matters.
	N, SmokeN int
	// Cluster is what the scenario needs.
	Cluster Cluster
	// Run measures. An error means that something did not work, never that it was slow.
	Run func(ctx context.Context, r *Run) error
}

// Cluster says what a scenario's cluster consists of beside Kubernetes.
type Cluster struct {
	// KubernetesOnly leaves aranya out.
	KubernetesOnly bool
	// Devices is how many real agents there are, and Runtime what they run pods with.
	Devices int
	Runtime string
	// Link is that of the cluster whatever the user chooses, empty if the choice is his.
	Link string
}

// Params are what the user chooses.
type Params struct {
	// N overrides the scenario's own, if it is not 0.
	N int
	// Link of the devices: grpc, websocket or mqtt.
	Link string
	// ControllerManager is ControllerManagerStock or ControllerManagerFast.
	ControllerManager string
	// Smoke asks for little of everything: a run is to show that it works.
	Smoke bool
}

func (p *Params) validate() error {
	switch {
	case p.N < 0:
		return fmt.Errorf("N=%d: it must not be negative", p.N)
	case !slices.Contains([]string{local.LinkGRPC, local.LinkWebSocket, local.LinkMQTT}, p.Link):
		return fmt.Errorf("LINK=%s: it must be grpc, websocket or mqtt", p.Link)
	case p.ControllerManager != ControllerManagerStock && p.ControllerManager != ControllerManagerFast:
		return fmt.Errorf("CM=%s: it must be %s or %s", p.ControllerManager, ControllerManagerStock, ControllerManagerFast)
	}
	return nil
}

// Select returns the scenarios named in a comma-separated list, in that order; all of them if it is
// empty.
func Select(all []Scenario, names string) ([]Scenario, error) {
	if names == "" {
		return all, nil
	}
	var chosen []Scenario
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
		if i < 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.Name)
			}
			return nil, fmt.Errorf("SCENARIO=%s: there is no %q; there are %s", names, name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
