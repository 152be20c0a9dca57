package conformance

import "strings"

// defaultFocus are the tests of pods, of volumes and of kubectl.
const defaultFocus = `\[sig-(node|storage|cli)\]`

// defaultSkip are those that do not apply to a device.
var defaultSkip = strings.Join([]string{
	// They take long, must be alone, or fail now and then.
	`\[Slow\]`, `\[Serial\]`, `\[Disruptive\]`, `\[Flaky\]`,
	// A cluster has to be set up for them.
	`\[Feature:`, `\[FeatureGate:`, `\[Alpha\]`, `\[Beta\]`, `\[Provider:`,
	// Devices have no storage of clusters: no PersistentVolumes, no CSI, no NFS.
	`\[sig-storage\] (CSI|PersistentVolumes|PVC |PV |Volume metrics|VolumeAttachment|StorageClasses)`,
	`\[sig-storage\] In-tree Volumes \[Driver: (nfs|local)`,
}, "|")

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
