package streaming

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks for goroutines that are left. Those of the clients are not ours: some end a little
// late, and a WebSocket executor leaves its readers behind when its session is cut.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		code = checkLeaks(20*time.Second,
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*wsStreamExecutor).StreamWithContext.func1"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.watchErrorStream.func1"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*streamProtocolV2).copyStdout.func1"),
		)
	}
	os.Exit(code)
}

func checkLeaks(patience time.Duration, options ...goleak.Option) int {
	deadline := time.Now().Add(patience)
	for {
		err := goleak.Find(options...)
		if err == nil {
			return 0
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}
