package conformance

// What applies to a device, unless somebody chooses otherwise: sig-node's and sig-storage's tests of what
// an executor of pods must do, but for those that take long, must be alone, or are of features that a
// cluster has to be set up for.
const (
	defaultFocus = `\[sig-(node|storage)\].*\[NodeConformance\]`
	defaultSkip  = `\[Slow\]|\[Serial\]|\[Disruptive\]|\[Flaky\]|\[Feature:|\[FeatureGate:|\[Alpha\]|\[Beta\]`
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
