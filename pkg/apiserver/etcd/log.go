package etcd

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// infoVerbosity is the verbosity from which on etcd's own informational messages are logged: there
// are dozens of them at each start.
const infoVerbosity = 4

// newZapLogger returns a logger for etcd, which insists on zap, that writes to the logger of the
// rest of the program.
//
// After quiet is set, errors are logged as information: an etcd that is told to stop reports the end
// of each of its servers as one.
func newZapLogger(logger klog.Logger, quiet *atomic.Bool) *zap.Logger {
	return zap.New(&zapCore{logger: logger, quiet: quiet})
}

type zapCore struct {
	logger klog.Logger
	quiet  *atomic.Bool
	fields []zapcore.Field
}

func (c *zapCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel || c.logger.V(verbosity(level)).Enabled()
}

func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{logger: c.logger, quiet: c.quiet, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *zapCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *zapCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	var failure error
	enc := zapcore.NewMapObjectEncoder()
	for _, list := range [][]zapcore.Field{c.fields, fields} {
		for _, f := range list {
			if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType && failure == nil {
				failure = err
				continue
			}
			f.AddTo(enc)
		}
	}
	kv := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		kv = append(kv, k, v)
	}
	switch {
	case entry.Level >= zapcore.WarnLevel && c.quiet.Load():
		c.logger.V(infoVerbosity).Info(entry.Message, append(kv, "err", failure)...)
	case entry.Level >= zapcore.ErrorLevel:
		c.logger.Error(failure, entry.Message, kv...)
	case entry.Level == zapcore.WarnLevel:
		if failure != nil {
			kv = append(kv, "err", failure)
		}
		c.logger.Info(entry.Message, kv...)
	default:
		c.logger.V(verbosity(entry.Level)).Info(entry.Message, kv...)
	}
	return nil
}

func (c *zapCore) Sync() error {
	klog.Flush()
	return nil
}

func verbosity(level zapcore.Level) int {
	if level == zapcore.DebugLevel {
		return infoVerbosity + 2
	}
	return infoVerbosity
}
