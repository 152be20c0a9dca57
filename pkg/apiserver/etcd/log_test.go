package etcd

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"k8s.io/klog/v2/ktesting"
)

func TestLogLevels(t *testing.T) {
	failure := errors.New("no space left")
	for name, test := range map[string]struct {
		log   func(*zap.Logger)
		quiet bool
		level string // first letter of the output
		want  string // part of the output; empty: nothing
	}{
		"error":           {log: func(l *zap.Logger) { l.Error("cannot write", zap.Error(failure)) }, level: "E", want: `] cannot write err="no space left"`},
		"warning":         {log: func(l *zap.Logger) { l.Warn("slow", zap.Int("ms", 7)) }, level: "I", want: "] slow ms=7"},
		"with":            {log: func(l *zap.Logger) { l.With(zap.String("member", "a")).Warn("slow") }, level: "I", want: `] slow member="a"`},
		"information":     {log: func(l *zap.Logger) { l.Info("starting") }},
		"while it stops":  {log: func(l *zap.Logger) { l.Error("closed") }, quiet: true},
		"debug":           {log: func(l *zap.Logger) { l.Debug("tick") }},
		"nothing is lost": {log: func(l *zap.Logger) { l.Error("plain") }, level: "E", want: "] plain"},
	} {
		t.Run(name, func(t *testing.T) {
			out := &ktesting.BufferTL{}
			logger := ktesting.NewLogger(out, ktesting.NewConfig(ktesting.Verbosity(2)))
			quiet := &atomic.Bool{}
			quiet.Store(test.quiet)
			l := newZapLogger(logger, quiet)
			test.log(l)
			_ = l.Sync()
			if got := out.String(); (test.want == "") != (got == "") || !strings.Contains(got, test.want) || !strings.HasPrefix(got, test.level) {
				t.Errorf("got %q, want %s...%q", got, test.level, test.want)
			}
		})
	}
}
