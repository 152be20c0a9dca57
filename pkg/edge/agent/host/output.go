package host

import (
	"io"
	"os"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/drain"
)

// output carries what a command prints through pipes. Those of os/exec are closed a fixed time after the
// command's end, whether their readers keep up or not.
type output struct {
	patience time.Duration
	pipes    []*outputPipe
	copies   sync.WaitGroup
}

type outputPipe struct {
	reader      *drain.Reader
	read, write *os.File
	to          io.Writer
}

// pipe makes a pipe to a writer and sets the command's end of it.
func (o *output) pipe(end *io.Writer, to io.Writer) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	o.pipes = append(o.pipes, &outputPipe{reader: drain.NewReader(read, o.patience), read: read, write: write, to: to})
	*end = write
	return nil
}

// carry begins, once the command has its ends.
func (o *output) carry() {
	for _, p := range o.pipes {
		_ = p.write.Close()
		o.copies.Go(func() {
			_, _ = io.Copy(p.to, p.reader)
			_ = p.read.Close() // the command must not block for ever on output that nobody takes
		})
	}
}

// drain waits for the rest after the command's end.
func (o *output) drain() {
	for _, p := range o.pipes {
		p.reader.End()
	}
	o.copies.Wait()
}

// close closes what is open. It may be called without carry.
func (o *output) close() {
	for _, p := range o.pipes {
		_, _ = p.read.Close(), p.write.Close()
	}
}
