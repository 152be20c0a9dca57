package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"arhat.dev/aranya/test/framework/eventually"
)

// What a command has printed arrives, also over a link that takes it long after the command's end.
func TestOutputOverSlowLink(t *testing.T) {
	for name, tt := range map[string]struct {
		tty  bool
		size int // less than a pipe, or a terminal, holds
	}{"pipes": {false, 60000}, "terminal": {true, 3000}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.patience = 0
			pidFile := filepath.Join(t.TempDir(), "pid")
			request := sh(fmt.Sprintf("echo $$ > %s; exec head -c %d /dev/zero", pidFile, tt.size))
			request.Tty = tt.tty
			stalled := make(chan struct{})
			s := openStalled(t, h, execRequest(request), stalled)
			eventually.Holds(t, "the command has ended", func() bool {
				data, _ := os.ReadFile(pidFile)
				pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
				return err == nil && syscall.Kill(pid, 0) != nil
			})
			close(stalled)
			stdout, _, result := s.finish()
			if len(stdout) != tt.size || result.GetExitCode() != 0 || result.GetReason() != "" {
				t.Errorf("got %d bytes of %d, %v", len(stdout), tt.size, result)
			}
		})
	}
}
