package target

import (
	"context"
	"errors"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
)

// LogOptions select a part of a log. They are those of pods/log.
type LogOptions struct {
	Follow, Previous, Timestamps bool
	SinceSeconds                 *int64
	SinceTime                    *metav1.Time
	TailLines                    *int64
	LimitBytes                   *int64
}

// Validate applies the rules of pods/log.
func (o *LogOptions) Validate() field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath("sinceSeconds"), "may not be used together with sinceTime"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	return errs
}

// maxSinceSeconds, a century, keeps the arithmetic below and that of devices in range. No log is older.
const maxSinceSeconds = 100 * 365 * 24 * 3600

// Request returns the options in the terms of the protocol. They name no log.
func (o *LogOptions) Request(now time.Time) *edgeapi.Log {
	log := &edgeapi.Log{Follow: o.Follow, Previous: o.Previous, Timestamps: o.Timestamps, TailLines: -1, LimitBytes: -1}
	switch {
	case o.SinceSeconds != nil:
		log.SinceSeconds = min(*o.SinceSeconds, maxSinceSeconds)
		log.SinceNs = max(1, now.Add(-time.Duration(log.SinceSeconds)*time.Second).UnixNano())
	case o.SinceTime != nil && o.SinceTime.Unix() > 0:
		log.SinceNs = o.SinceTime.UnixNano()
	}
	if o.TailLines != nil {
		log.TailLines = *o.TailLines
	}
	if o.LimitBytes != nil {
		log.LimitBytes = *o.LimitBytes
	}
	return log
}

// Log opens the log of a container, or the one of the host that log names if container is nil. It ends with the
// log, with ctx, or when it is closed, which the caller must do. A log that the device could not read to its end
// gives an API status instead of io.EOF.
func Log(ctx context.Context, session gateway.Session, container *Container, log *edgeapi.Log) (io.ReadCloser, error) {
	if container != nil {
		log.Source = &edgeapi.Log_Container{Container: container.reference(session)}
	}
	r, err := output(ctx, session, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Log{Log: log}})
	if err != nil {
		return nil, container.logError(session, err, log.GetPrevious())
	}
	return r, nil
}

// output opens a stream of which only STDOUT matters.
func output(ctx context.Context, session gateway.Session, req *edgeapi.OpenStream) (io.ReadCloser, error) {
	s, err := open(ctx, session, req)
	if err != nil {
		return nil, err
	}
	s.Reader(edgeapi.Channel_STDERR).Close()
	return &outputReader{
		ctx: ctx, session: session, stream: s,
		r:    s.Reader(edgeapi.Channel_STDOUT),
		stop: context.AfterFunc(ctx, s.Close),
	}, nil
}

type outputReader struct {
	ctx     context.Context
	session gateway.Session
	stream  *stream.Stream
	r       io.Reader
	stop    func() bool
}

func (r *outputReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil {
		err = r.end(err)
	}
	return n, err
}

// WriteTo implements io.WriterTo, for io.Copy: a log that is followed holds no buffer.
func (r *outputReader) WriteTo(w io.Writer) (int64, error) {
	out := &sink{Writer: w}
	n, err := io.Copy(out, r.r)
	if out.err != nil {
		return n, out.err
	}
	if err == nil {
		err = io.EOF
	}
	if err = r.end(err); errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// end says why there is no more to read, for an error of reading.
func (r *outputReader) end(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	// The result comes after the last byte.
	result, waitErr := r.stream.Wait(r.ctx)
	if waitErr != nil {
		return broken(r.session, waitErr)
	}
	if resultErr := gateway.ResultError(r.session.Device(), result); resultErr != nil {
		return resultErr
	}
	return err
}

// sink tells errors of writing from those of reading.
type sink struct {
	io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func (r *outputReader) Close() error {
	r.stop()
	r.stream.Close()
	return nil
}
