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
		f, err := openFile(c.File.Path, c.File.MaxBytes(), c.File.MaxFiles, c.Format == "json")
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
		options.ReplaceAttr = nameLevel
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// infoVerbosity is up to which verbosity an entry is of the level info.
var infoVerbosity = (&config.Logging{Level: "info"}).Verbosity()

// nameLevel gives an entry one of the levels INFO, DEBUG and ERROR, and its verbosity by itself: the levels of slog
// that stand for klog's verbosities have names such as DEBUG+2.
func nameLevel(_ []string, a slog.Attr) slog.Attr {
	level, ok := a.Value.Any().(slog.Level)
	if !ok || a.Key != slog.LevelKey || level >= slog.LevelError {
		return a
	}
	verbosity, name := -int(level), slog.LevelInfo
	if verbosity > infoVerbosity {
		name = slog.LevelDebug
	}
	return slog.Attr{Value: slog.GroupValue(slog.String(slog.LevelKey, name.String()), slog.Int("v", verbosity))}
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
