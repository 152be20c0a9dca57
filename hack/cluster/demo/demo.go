// Package demo is the tour of "make demo": it brings a small cluster up and shows on it what aranya
// is for, with stock kubectl. Each command is printed, then run, and what follows is its real output.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"arhat.dev/aranya/hack/cluster/local"
)

// devices is how many devices the tour has.
const devices = 2

// Run brings the cluster up, gives the tour, waits for ctx to end unless once is set, and removes the
// cluster. It fails if any step fails.
func Run(ctx context.Context, o local.Options, once bool) (err error) {
	o.Devices = 0 // the tour adds them
	_, _ = fmt.Fprintf(o.Out, "Bringing a cluster up in %s.\n", o.Dir)
	if err := refuseRunning(o.Dir); err != nil {
		return err
	}
	c, err := local.Up(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		_, _ = fmt.Fprintln(o.Out, "\nStopping the cluster.")
		// After a failure its logs are worth reading.
		err = errors.Join(err, local.Down(context.WithoutCancel(ctx), c.Dir, err == nil, o.Out))
		if err == nil {
			_, _ = fmt.Fprintln(o.Out, "Nothing is left of it.")
		} else {
			_, _ = fmt.Fprintf(o.Out, "The logs are in %s/logs and %s/devices/*/logs.\n", c.Dir, c.Dir)
		}
	}()
	if err := c.BrokerSecrets(ctx); err != nil {
		return err
	}
	stopBroker, err := startBroker(c, "device-2")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopBroker()) }()
	t := &tour{cluster: c, out: o.Out}
	begin := time.Now()
	if err := t.give(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return fmt.Errorf("the tour failed: %w", err)
	}
	_, _ = fmt.Fprintf(o.Out, "\nThat was the tour, in %.0f seconds.\n", time.Since(begin).Seconds())
	if once {
		return nil
	}
	c.Describe(o.Out)
	_, _ = fmt.Fprintln(o.Out, "\nPress Ctrl-C to stop the cluster and remove it.")
	<-ctx.Done()
	return nil
}

// refuseRunning refuses to give the tour on a cluster that somebody else uses.
func refuseRunning(dir string) error {
	if c, err := local.Open(dir); err == nil && c.Up() {
		return fmt.Errorf("a cluster is up in %s; stop it first with make down DIR=%s", dir, dir)
	}
	return nil
}

// tour prints and runs the steps.
type tour struct {
	cluster *local.Cluster
	out     io.Writer
	dir     string
}

// write makes a file of the tour and shows it.
func (t *tour) write(name, content string) error {
	if err := os.WriteFile(t.dir+"/"+name, []byte(content), 0o600); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(t.out, "\n$ cat %s\n%s", name, content)
	return nil
}

func (t *tour) say(text string) {
	_, _ = fmt.Fprintf(t.out, "\n# %s\n", strings.ReplaceAll(text, "\n", "\n# "))
}
