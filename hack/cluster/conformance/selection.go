package conformance

// What applies to a device, unless somebody chooses otherwise: the tests of sig-node, sig-storage and sig-cli
// (kubectl logs, exec, port-forward and the like), but for those that take long, must be alone, are of
// features that a cluster has to be set up for, or are for one provider of machines.
const (
	defaultFocus = `\[sig-(node|storage|cli)\]`
	defaultSkip  = `\[Slow\]|\[Serial\]|\[Disruptive\]|\[Flaky\]|\[Feature:|\[FeatureGate:|\[Alpha\]|\[Beta\]|\[Provider:`
)

// selection returns Ginkgo's arguments that choose the tests.
func (o *Options) selection() []string {
	focus, skip := o.Focus, o.Skip
	if focus == "" {
		focus = defaultFocus
	}
	if skip == "" {
		skip = defaultSkip
	}
	return []string{"--focus=" + focus, "--skip=" + skip}
}
