// Package stream gives one Stream call of the edge protocol the shape that both of its ends work
// with: readers and writers per channel, half-close, terminal sizes and a final result. It knows
// nothing of what the bytes mean.
package stream

// Stream is one exec, attach, log or port-forward session.
type Stream struct{}
