package cli

import (
	"io"
	"testing"

	"k8s.io/kubectl/pkg/util/term"
)

// Output into a pipe has no size, though the input is a terminal.
func TestNoSizesWithoutTerminal(t *testing.T) {
	tty := term.TTY{Out: io.Discard, Raw: true}
	if size := (sizeQueue{tty.MonitorSize(tty.GetSize())}).Next(); size != nil {
		t.Errorf("the size is %v, want none", size)
	}
}
