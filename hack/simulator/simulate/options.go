// Package simulate runs simulated devices against any aranya: it creates their EdgeDevices, enrols them,
// runs them, and tells how they are. What a simulated device is belongs into package fleet, and what is
// measured of aranya into the benchmarks.
package simulate

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/config"
)

// nameVariable stands for the name of a device in templates.
const nameVariable = "$(NAME)"

// Options say which devices to run.
type Options struct {
	// Cluster is where to create EdgeDevices and tokens; nil if Tokens are given.
	Cluster *rest.Config
	// Namespace of the EdgeDevices, which are named Prefix-0 and so on.
	Namespace, Prefix string
	Devices           int
	// NoNode leaves the Nodes out.
	NoNode bool
	// EdgeDevice is a template of the EdgeDevices, in YAML; empty for all defaults.
	EdgeDevice string
	// Tokens enrol devices whose EdgeDevices exist.
	Tokens []string
	// Server overrides the address that aranya gives out with its tokens, and the agent's configuration.
	Server string
	// Agent is a template of the agents' configuration, in YAML, for whatever belongs to the link.
	Agent string
	// Workers is how many devices are enrolled at the same time.
	Workers int
	// Keep leaves the EdgeDevices when the simulation ends.
	Keep bool
	// Dir holds the state of the devices; it is made, and removed in the end.
	Dir     string
	Runtime fakecri.Options
	// Period is how often Out is told how the devices are.
	Period time.Duration
	Out    io.Writer
}

var errNoServer = errors.New("server: aranya knows no address that devices can reach (--gateway-advertise-address); give one")

// Validate says all that is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case len(o.Tokens) > 0 && o.Devices > 0:
		fail("devices: there are as many as tokens; give one of the two")
	case len(o.Tokens) > 0 && o.EdgeDevice != "":
		fail("a template of EdgeDevices is of no use with tokens, whose EdgeDevices exist")
	case len(o.Tokens) > 0 && o.Server == "" && o.Agent == "":
		fail("server: tokens do not tell the address of aranya")
	case len(o.Tokens) == 0 && o.Devices <= 0:
		fail("devices: there must be at least one")
	case len(o.Tokens) == 0 && o.Cluster == nil:
		fail("neither a cluster nor tokens are given")
	case len(o.Tokens) == 0:
		for _, problem := range validation.IsDNS1123Subdomain(o.name(o.Devices - 1)) {
			fail("prefix %q: %s", o.Prefix, problem)
		}
	}
	if o.Runtime.FailureRate < 0 || o.Runtime.FailureRate > 1 {
		fail("failure rate %g: it must be from 0 to 1", o.Runtime.FailureRate)
	}
	if o.Runtime.StartDelay < 0 {
		fail("start delay %s: it must not be negative", o.Runtime.StartDelay)
	}
	if o.Workers <= 0 {
		fail("workers %d: there must be at least one", o.Workers)
	}
	if o.Period <= 0 {
		fail("period %s: it must be greater than 0", o.Period)
	}
	if _, err := o.edgeDevice("x"); err != nil {
		errs = append(errs, err)
	}
	if _, err := o.agent("x", "x:1"); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o *Options) name(i int) string { return fmt.Sprintf("%s-%d", o.Prefix, i) }

// edgeDevice is the EdgeDevice of a device.
func (o *Options) edgeDevice(name string) (*v1alpha1.EdgeDevice, error) {
	ed := &v1alpha1.EdgeDevice{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(o.EdgeDevice, nameVariable, name)), ed); err != nil {
		return nil, fmt.Errorf("template of EdgeDevices: %w", err)
	}
	ed.Namespace, ed.Name = o.Namespace, name
	if o.NoNode {
		ed.Spec.Node.Disabled = true
	}
	return ed, nil
}

// agent is the configuration of a device's agent, given the address that aranya gives out.
func (o *Options) agent(name, server string) (*config.Configuration, error) {
	text := strings.ReplaceAll(o.Agent, nameVariable, name)
	if text == "" {
		text = fmt.Sprintf("apiVersion: %s\nkind: %s\n", config.APIVersion, config.Kind)
	}
	c, err := config.Parse([]byte(text), "template of the agents' configuration")
	if err != nil {
		return nil, err
	}
	switch {
	case o.Server != "":
		c.Server = o.Server
	case c.Server == "":
		c.Server = server
	}
	if c.Server == "" {
		return nil, errNoServer
	}
	return c, nil
}
