package conformance

// selection returns Ginkgo's arguments that choose the tests.
func (o *Options) selection() []string {
	var args []string
	focus := o.Focus
	args = append(args, "--focus="+focus)
	if o.Skip != "" {
		args = append(args, "--skip="+o.Skip)
	}
	return args
}
