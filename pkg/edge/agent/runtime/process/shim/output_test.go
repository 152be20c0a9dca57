package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/edge/agent/drain"
)

// The last lines of a container are logged, though a client that is attached holds up its output.
func TestLogWithStalledClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	source, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	taken, client, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader := drain.NewReader(source, 0)
	s := &stdio{spec: &Spec{}, log: log, sinks: map[*sink]struct{}{}, sources: []*drain.Reader{reader}}
	s.attach(&sink{stdout: client})
	s.started()
	// More than the client's pipe and a Read take, and not more than the container's pipe takes in addition.
	lines := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 1000)
	if _, err := write.Write(append(lines, "the end\n"...)); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	reader.End()
	_ = taken.Close() // the client is gone
	s.finish()
	logged, err := os.ReadFile(path)
	if err != nil || bytes.Count(logged, []byte("\n")) != 1001 || !bytes.HasSuffix(logged, []byte(" stdout F the end\n")) {
		t.Errorf("%d lines, %v", bytes.Count(logged, []byte("\n")), err)
	}
}
