// Package logging sets up the agent's own log: structured lines to standard error, and to a file of
// bounded size from which the cloud side can read them. What is logged, and how containers' logs are
// written, is decided elsewhere.
package logging

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

// Setup makes the process log as configured, klog's global functions included. The closer is for the
// end of the process; what is logged after that goes to standard error only.
func Setup(c *config.Logging) (logr.Logger, io.Closer, error) {
	var out io.Writer = os.Stderr
	var file io.Closer = io.NopCloser(nil)
	if !c.File.Disabled {
		f, err := OpenFile(c.File.Path, c.File.MaxBytes(), c.File.MaxFiles)
		if err != nil {
			return logr.Logger{}, nil, fmt.Errorf("cannot open the log file: %w (logging.file in arhat.yaml)", err)
		}
		out, file = &tee{os.Stderr, f}, f
	}
	verbosity := max(0, c.Verbosity())
	logger := newLogger(c, out, verbosity)
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", strconv.Itoa(verbosity)); err != nil {
		return logr.Logger{}, nil, err
	}
	klog.SetLoggerWithOptions(logger, klog.ContextualLogger(true))
	return logger, file, nil
}

func newLogger(c *config.Logging, out io.Writer, verbosity int) logr.Logger {
	if c.Verbosity() < 0 {
		return logr.FromSlogHandler(handler(c.Format, out, slog.LevelError))
	}
	if c.Format == "json" {
		return logr.FromSlogHandler(handler(c.Format, out, slog.Level(-verbosity)))
	}
	return textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(verbosity), textlogger.Output(out)))
}

func handler(format string, out io.Writer, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// tee writes to both. A file that cannot be written must not silence standard error.
type tee struct{ a, b io.Writer }

func (t *tee) Write(p []byte) (int, error) {
	n, err := t.a.Write(p)
	if _, fileErr := t.b.Write(p); fileErr != nil && err == nil {
		_, _ = fmt.Fprintf(t.a, "cannot write the log file: %v\n", fileErr)
	}
	return n, err
}
